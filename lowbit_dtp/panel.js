// Prices the counts on this page on the hardware that the reader chooses, as hw_models.price does.
"use strict";
{
  const data = JSON.parse(document.getElementById("panel-data").textContent);
  const form = document.getElementById("panel-form");
  const results = document.getElementById("panel-results");
  const ends = ["low", "typical", "high"];
  const parts = ["link", "compute", "memory"];

  // Ranges: low, typical and high of the same quantity

  const range = (of) => Object.fromEntries(ends.map((end) => [end, of(end)]));
  const sum = (ranges) => range((end) => ranges.reduce((total, each) => total + each[end], 0));
  const times = (cost, number) => range((end) => cost[end] * number);

  // Memory: a curve through the sizes of SRAM that a technology has, straight on logarithmic axes

  function accessCost(memory, bits) {
    for (let i = 1; i < memory.length; i++) {
      const [[smaller, low], [larger, high]] = [memory[i - 1], memory[i]];
      if (smaller < bits && bits < larger) {
        const part = Math.log(bits / smaller) / Math.log(larger / smaller);
        return range((end) => low[end] > 0 && high[end] > 0
          ? Math.exp((1 - part) * Math.log(low[end]) + part * Math.log(high[end]))
          : low[end] + part * (high[end] - low[end]));
      }
    }
    const fitting = memory.filter(([size]) => size <= bits).map(([size]) => size);
    return (memory.find(([size]) => size === Math.max(...fitting)) || memory[0])[1];
  }

  function memoryCost(counts, technology, reuse) {
    return sum(counts.accesses.map((access) => {
      const held = access.buffer ? access.capacity_bits * reuse : access.capacity_bits;
      return times(accessCost(technology.memory, held), access.bits / 64 / (access.shared ? reuse : 1));
    }));
  }

  // Links: for each term of a wire, its events in the messages, times the length or the hops

  const bitsOf = (messages) => messages.reduce((total, message) => total + message.sent, 0);

  // A message with the bits, ones and toggles that it has with a coding; those of a stream are random bits.
  function carried(message, coding) {
    if (coding === "plain" || message.plain) return { ...message, sent: message.messages * message.bits };
    if (!(coding in message.coded)) throw new Error(`${message.link}: ${coding} was not counted`);
    const { bits, toggles } = message.coded[coding];
    return { ...message, sent: bits, toggles, ones: bits / 2, events: false, coding };
  }

  // The coding with the fewest bits on a link in a direction, as Ledger.best_coding has it.
  function best(counts, of) {
    const along = counts.messages.filter((each) => each.link === of.link && each.direction === of.direction);
    const names = ["plain", ...Object.keys(of.coded)].filter(
      (name) => name === "plain" || along.every((each) => each.plain || name in each.coded));
    const bits = names.map((name) => bitsOf(along.map((each) => carried(each, name))));
    return names[bits.indexOf(Math.min(...bits))];
  }

  function crossing(counts, wires) {
    return counts.messages.map((message) => {
      const { coding } = wires[message.link];
      return carried(message, coding === "best" ? best(counts, message) : coding);
    });
  }

  function events(kind, message, flitBits) {
    switch (kind) {
      case "bit": return message.sent;
      case "transition": return message.toggles;
      case "one": return message.ones;
      case "flit":
        return message.coding ? message.sent / flitBits : message.messages * Math.ceil(message.bits / flitBits);
      case "message": return message.messages;
    }
    if (!message.events) throw new Error(`${message.link} sends no address events, and its wire costs by events`);
    return message.ones;
  }

  function messageCost(message, technology, wires) {
    const wire = wires[message.link];
    if (!(wire.kind in technology.wires)) throw new Error(`${message.link}: this technology has no such wire`);
    const { terms, flit_bits } = technology.wires[wire.kind];
    return sum(terms.map(([per, cost]) => {
      const [event, along] = per.split(" and ");
      const distance = along === "metre" ? wire.metres : along === "hop" ? wire.hops : 1;
      return times(cost, events(event, message, flit_bits) * distance * data.links[message.link].times);
    }));
  }

  function price(counts, state) {
    const technology = data.technologies[state.technology];
    const bill = {
      link: sum(crossing(counts, state.wires).map((message) => messageCost(message, technology, state.wires))),
      compute: counts.compute[state.technology],
      memory: memoryCost(counts, technology, state.reuse),
    };
    return { ...bill, total: sum(parts.map((part) => bill[part])) };
  }

  // Straight-through with a gradient of any width, for which no coding was counted, nor for one that is estimated

  function baseline(gradientBits) {
    const { links, counts, estimated } = data.baseline;
    const messages = counts.messages.map((message) => {
      if (message.direction !== "feedback" || !links.includes(message.link)) return { ...message, plain: estimated };
      const bits = message.width * gradientBits;
      const half = message.messages * bits / 2;
      return { ...message, bits, toggles: half, ones: half, plain: true };
    });
    return { ...counts, messages };
  }

  // What a gradient costs is proportional to its width, so a straight line through two widths has all others.
  function breakEven(counts, bill, state) {
    const ends = [baseline(0), baseline(1)];
    const bits = [counts, ...ends].map((each) =>
      bitsOf(crossing(each, state.wires).filter((message) => data.baseline.links.includes(message.link))));
    const costs = ends.map((each) => price(each, state));
    return {
      bits: (bits[0] - bits[1]) / (bits[2] - bits[1]),
      joules: (bill.total.typical - costs[0].total.typical) / (costs[1].link.typical - costs[0].link.typical),
    };
  }

  // Numbers as text, as in the rest of the page

  function prefix(value) {
    if (!value) return ["", 1];
    const steps = Math.min(Math.max(Math.floor(Math.log10(Number(Math.abs(value).toExponential(2))) / 3), -5), 3);
    return ["fpnµm kMG"[steps + 5].trim(), 1000 ** steps];
  }
  const digits = (value) => value.toFixed(Math.abs(value) < 9.995 ? 2 : Math.abs(value) < 99.95 ? 1 : 0);
  function joules(value) {
    const [name, factor] = prefix(value);
    return `${digits(value / factor)}\u00a0${name}J`;
  }
  function joulesBetween(cost) {
    const [name, factor] = prefix(cost.high);
    return `${digits(cost.low / factor)} to ${digits(cost.high / factor)}\u00a0${name}J`;
  }
  const three = (value) => Number(value.toPrecision(3)).toLocaleString("en").replaceAll(",", "\u202f");
  const width = (bits) => bits > 0 && isFinite(bits) ? `${three(bits)}\u00a0bit${bits === 1 ? "" : "s"}` : "none";

  // The form

  const inputs = (name, link) => form.querySelector(`[name="${name}"][data-link="${CSS.escape(link)}"]`);

  function chosen() {
    const wires = {};
    for (const link of Object.keys(data.links)) {
      wires[link] = {
        kind: inputs("wire", link).value,
        metres: inputs("length", link).valueAsNumber / 1000,
        hops: inputs("hops", link).valueAsNumber,
        coding: inputs("coding", link)?.value || "plain",
      };
    }
    const bits = data.baseline ? form.elements.gradient.valueAsNumber : 0;
    return { technology: form.elements.technology.value, reuse: form.elements.reuse.valueAsNumber, bits, wires };
  }

  function needs(state, link, along) {
    const wire = data.technologies[state.technology].wires[state.wires[link].kind];
    return Boolean(wire) && wire.terms.some(([per]) => per.endsWith(` and ${along}`));
  }

  // Only lengths and hops that the wires need can be set.
  function adapt(state) {
    for (const link of Object.keys(data.links)) {
      for (const option of inputs("wire", link).options) {
        option.disabled = !(option.value in data.technologies[state.technology].wires);
      }
      for (const [name, along] of [["length", "metre"], ["hops", "hop"]]) {
        const input = inputs(name, link);
        input.disabled = !needs(state, link, along);
        input.closest("label").classList.toggle("unused", input.disabled);
      }
    }
    for (const slider of form.querySelectorAll("input[type=range]")) {
      slider.closest("label").querySelector("output").textContent = slider.value;
    }
  }

  function described(state) {
    const named = Object.entries(state.wires).map(([link, wire]) => {
      const metres = needs(state, link, "metre") ? ` ${wire.metres * 1000}\u00a0mm` : "";
      const hops = needs(state, link, "hop") ? ` ${wire.hops}\u00a0hop${wire.hops === 1 ? "" : "s"}` : "";
      const copies = data.links[link].times === 1 ? "" : ` ${data.links[link].times}\u00a0times`;
      const coding = wire.coding === "plain" ? "" : ` (${wire.coding})`;
      return `${link} ${inputs("wire", link).selectedOptions[0].textContent}${metres}${hops}${copies}${coding}`;
    });
    const reuse = state.reuse > 1 ? `, ${state.reuse} samples share an access` : "";
    const beside = data.baseline ? `; straight-through with a gradient of ${width(state.bits)}` : "";
    return `${state.technology}${reuse}; links: ${named.join(", ")}${beside}.`;
  }

  // The results

  function show(row, name, value, text) {
    const cell = row.querySelector(`[data-of="${name}"]`);
    if (!cell) return;
    for (const [end, number] of Object.entries(value || {})) cell.dataset[end] = number;
    cell.textContent = text;
  }

  function showBill(row, bar, bill, scale) {
    for (const part of [...parts, "total"]) {
      show(row, part, bill[part], joules(bill[part].typical));
      row.querySelector(`[data-of="${part}"]`).append(small(joulesBetween(bill[part])));
    }
    const share = bill.total.typical ? bill.link.typical / bill.total.typical : 0;
    show(row, "share", { typical: share }, share && share < 1e-4 ? "under 0.01\u00a0%" : `${Number((100 * share).toPrecision(2))}\u00a0%`);
    bar.querySelector(".sum").textContent = joules(bill.total.typical);
    for (const part of parts) bar.querySelector(`.${part}`).style.width = `${100 * bill[part].typical / scale}%`;
    const span = bar.querySelector(".span");
    span.style.left = `${100 * bill.total.low / scale}%`;
    span.style.width = `${100 * (bill.total.high - bill.total.low) / scale}%`;
    bar.querySelector(".dot").style.left = `${100 * bill.total.typical / scale}%`;
  }

  function small(text) {
    const element = document.createElement("small");
    element.textContent = text;
    return element;
  }

  function update() {
    const state = chosen();
    adapt(state);
    const problem = [...form.elements].find((input) => input.willValidate && !input.validity.valid);
    const told = document.getElementById("panel-state");
    results.classList.add("stale");
    if (problem) {
      told.textContent = `${problem.getAttribute("aria-label")}: ${problem.validationMessage}`;
      return;
    }
    const all = data.baseline ? [...data.rules, baseline(state.bits)] : data.rules;
    let bills;
    try {
      bills = all.map((counts) => price(counts, state));
    } catch (error) {
      told.textContent = `${error.message}.`;
      return;
    }
    told.textContent = described(state);
    results.classList.remove("stale");
    const scale = Math.max(...bills.map((bill) => bill.total.high)) || 1;
    const last = bills.at(-1).total.typical;
    bills.forEach((bill, i) => {
      const row = results.querySelector(`tr[data-row="${i}"]`);
      showBill(row, results.querySelector(`.bar[data-row="${i}"]`), bill, scale);
      if (!data.baseline || i === data.rules.length) return;
      show(row, "ratio", { typical: bill.total.typical / last }, (bill.total.typical / last).toFixed(2));
      const even = breakEven(all[i], bill, state);
      show(row, "even-bits", { typical: even.bits }, width(even.bits));
      show(row, "even-joules", { typical: even.joules }, width(even.joules));
    });
  }

  form.addEventListener("input", update);
  form.addEventListener("reset", () => setTimeout(update));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = results.hidden = false;
  update();
}
