// The view of a layer: its channels as cards, page by page, sorted, filtered and brushed.
"use strict";

(() => {
  const { openLayer, make, heading, link, address, number, percent, count, whenNear, choice, buttons, note, strip, figure, draw, plot } = convscope;
  const PER_PAGE = 96; // cards

  // What channels are sorted by and drawn over: a name, the value of a channel, and how it is written.
  const STATISTICS = {
    strength: ["maximum", (channel) => channel.winners[0]?.unclipped ?? channel.statistics.max, number],
    mean: ["mean", ({ statistics }) => statistics.mean, number],
    firing: ["share above zero", ({ statistics }) => statistics.share_positive, percent],
    purity: ["purity", ({ statistics }) => statistics.label_purity, percent],
    selectivity: ["selectivity", ({ statistics }) => statistics.selectivity, number],
    twin: ["correlation with its twin", ({ statistics }) => statistics.twin_correlation, number],
    clarity: ["clarity", ({ statistics }) => statistics.clarity, number],
    polysemanticity: ["polysemanticity", ({ statistics }) => statistics.polysemanticity, number],
    redundancy: ["redundancy", ({ statistics }) => statistics.redundancy, number],
    ties: ["ties", ({ statistics }) => statistics.ties, number],
  };

  const ONLY = {
    silent: ["never fire", ({ statistics }) => statistics.dead],
    tied: ["tie with the last winner", ({ statistics }) => statistics.ties > 0],
    named: ["have a name", ({ name }) => name],
    saturated: ["are saturated", ({ statistics }) => statistics.saturated],
    twin: ["have a twin (above 0.9)", ({ statistics }) => statistics.twin_correlation > 0.9],
  };

  const known = (layer, key) => new Set(layer.channels.map(STATISTICS[key][1]).filter((value) => typeof value === "number")).size > 1;

  // Why a channel has no winners.
  const without = (statistics) => (statistics.dead ? `never fires in ${count(statistics.seen ?? 0, "image")}` : "has no winners");

  // What a card says beside the channel's number: what the list is sorted by, or what its winners are.
  function captionOf(channel, sort) {
    const { statistics } = channel;
    if (statistics.dead) return "never fires";
    const [, value, written] = STATISTICS[sort] || [];
    if (value && sort !== "purity") return written(value(channel));
    const label = statistics.top_label ? `${statistics.top_label} ${percent(statistics.label_purity)}` : "";
    return [label, statistics.ties ? `${statistics.ties.toLocaleString("en")} more tie` : ""].filter(Boolean).join(", ");
  }

  // What a name rests on: its measure, and how often chance would give it.
  const claimOf = ({ concept, measure, value, chance }) => `“${concept}”: ${measure.replaceAll("_", " ")} ${number(value)}; chance ${chance ? number(chance, 2) : "less than what was tried"}`;

  function cardOf(channel, settings) {
    const caption = captionOf(channel, settings.sort);
    const title = link(`channel ${channel.number}`, address(channel.layer.name, channel.number));
    const name = channel.name ? make("span", { className: "name", title: claimOf(channel.name) }, channel.name.concept) : "";
    return make("article", { className: "card" }, make("h2", { className: "card-title" }, title, name, make("span", { className: "quiet", title: caption }, caption)));
  }

  function fillCard(card, channel, settings) {
    const pattern = channel.patterns.find((row) => row.sign === "positive") || channel.patterns[0];
    if (settings.show !== "patches" && pattern?.file) card.append(figure(pattern.file, `pattern of channel ${channel.number}`, { className: "pattern" }));
    if (settings.show === "patterns" && pattern) return;
    card.append(channel.winners.length ? strip(channel, 9, settings.whole === "1") : make("p", { className: "quiet" }, without(channel.statistics)));
  }

  // The channels of a layer that some settings ask for, in their order.
  function chosen(layer, { sort, label, text = "", only, brush, across = "firing", up = "strength" }) {
    const wanted = text.trim().toLowerCase();
    const matches = (winner) => (!label || winner.label === label) && (!wanted || `${winner.key} ${winner.label ?? ""}`.toLowerCase().includes(wanted));
    let list = layer.channels.filter((channel) => (!label && !wanted) || channel.winners.some(matches) || String(channel.number) === wanted || (wanted && channel.name?.concept.toLowerCase().includes(wanted)));
    if (ONLY[only]) list = list.filter(ONLY[only][1]);
    if (brush && STATISTICS[across] && STATISTICS[up]) {
      const [left, low, right, high] = brush.split(",").map(Number);
      const inside = (value, from, to) => typeof value === "number" && value >= from && value <= to;
      list = list.filter((channel) => inside(STATISTICS[across][1](channel), left, right) && inside(STATISTICS[up][1](channel), low, high));
    }
    if (STATISTICS[sort]) list.sort((a, b) => (STATISTICS[sort][1](b) ?? -Infinity) - (STATISTICS[sort][1](a) ?? -Infinity) || a.number - b.number);
    return list;
  }

  async function showLayer(job, root, [name], settings) {
    const layer = await openLayer(job, name);
    const state = { show: "patches", page: "1", ...settings };
    if (state.sort && !(STATISTICS[state.sort] && known(layer, state.sort))) delete state.sort;
    const labels = new Map();
    for (const channel of layer.channels) for (const { label } of channel.winners) if (label !== null) labels.set(label, 1 + (labels.get(label) || 0));
    const grid = make("div", { className: "channels" });
    const status = make("p", { className: "quiet", role: "status" });
    const pages = make("nav", { className: "steps", ariaLabel: "Pages" });
    const scatter = make("div", { className: "scatter" });

    function change(changes) {
      const fresh = "page" in changes ? {} : { page: "1" };
      Object.assign(state, fresh, changes);
      const { page, show, ...others } = state;
      note({ ...others, ...changes, page: page === "1" ? null : page, show: show === "patches" ? null : show, y: null });
      again();
    }

    function again() {
      const list = chosen(layer, state);
      layer.sequence = list.map((channel) => channel.number); // what previous and next mean in the view of a channel
      const last = Math.max(1, Math.ceil(list.length / PER_PAGE));
      const page = Math.min(Math.max(Number(state.page) || 1, 1), last);
      const seen = list.slice((page - 1) * PER_PAGE, page * PER_PAGE);
      status.textContent = `${list.length === layer.channels.length ? count(list.length, "channel") : `${list.length.toLocaleString("en")} of ${count(layer.channels.length, "channel")}`}${last > 1 ? `, page ${page} of ${last}` : ""}`;
      const turn = (to, text, rel) => (to < 1 || to > last ? make("span", { className: "quiet" }, text) : link(text, address(name, { ...state, page: to, show: state.show === "patches" ? null : state.show, y: null }), { rel }));
      pages.replaceChildren(...(last > 1 ? [turn(page - 1, "← previous page", "prev"), turn(page + 1, "next page →", "next")] : []));
      const cards = new Map(seen.map((channel) => [cardOf(channel, state), channel]));
      grid.className = `channels ${state.show}`;
      grid.replaceChildren(...cards.keys());
      whenNear(cards.keys(), (card) => fillCard(card, cards.get(card), state));
    }

    const filter = make("input", { type: "search", value: state.text || "", placeholder: "name, file, label or number" });
    filter.oninput = () => change({ text: filter.value });
    const most = [...labels].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
    const sorts = Object.keys(STATISTICS).filter((key) => known(layer, key)).map((key) => [key, `${STATISTICS[key][0]}: highest first`]);
    const tools = [choice("Sort by", state.sort || "", [["", "number"], ...sorts], (sort) => change({ sort }))];
    if (most.length) tools.push(choice("Label", labels.has(state.label) ? state.label : "", [["", `any of ${most.length}`], ...most.slice(0, 500).map(([label, times]) => [label, `${label} (${times})`])], (label) => change({ label })));
    const faults = Object.entries(ONLY).filter(([, [, holds]]) => layer.channels.some(holds));
    if (faults.length) tools.push(choice("Only those that", state.only || "", [["", "(all)"], ...faults.map(([key, [text]]) => [key, text])], (only) => change({ only })));
    tools.push(make("label", {}, "Filter", filter));
    if (layer.channels.some((channel) => channel.patterns.length)) {
      tools.push(buttons("Pictures", state.show, ["patches", "patterns", "both"].map((key) => [key, key]), (show) => change({ show, page: state.page })));
    }
    const toggle = make("button", { type: "button", textContent: "whole images", ariaPressed: String(state.whole === "1"), disabled: ![...job.images.values()].some((image) => image.file) });
    toggle.onclick = () => {
      change({ whole: state.whole === "1" ? null : "1", page: state.page });
      toggle.ariaPressed = String(state.whole === "1");
    };
    tools.push(toggle);
    const opened = make("details", { open: Boolean(state.across || state.brush) }, make("summary", {}, "Plot of all channels"), scatter);
    opened.ontoggle = () => opened.open && drawScatter(scatter, layer, state, change);
    root.append(
      heading(name),
      describe(layer),
      make("div", { className: "tools", role: "group", ariaLabel: "Order and choice" }, ...tools),
      opened,
      make("div", { className: "over" }, status, pages),
      grid,
    );
    if (!layer.channels.length) grid.append(make("p", { className: "notice" }, "No channel of this layer has been looked at."));
    again();
    if (opened.open) drawScatter(scatter, layer, state, change);
  }

  function describe(layer) {
    const { field } = layer;
    const size = field ? `${field.map_height} × ${field.map_width} × ${layer.count}; ${field.global ? "every unit sees the whole image" : `a unit sees up to ${field.height} × ${field.width} pixels, ${number(field.stride_y)} × ${number(field.stride_x)} apart`}` : "receptive field not known";
    const health = [ONLY.silent, ONLY.tied, ONLY.named, ONLY.saturated].map(([text, holds]) => [layer.channels.filter(holds).length, text]).filter(([times]) => times);
    const faults = health.map(([times, text]) => `${times.toLocaleString("en")} ${times === 1 ? text.replace("never fire", "never fires").replace("tie ", "ties ").replace("have ", "has ").replace("are ", "is ") : text}`).join(", ");
    return make("p", { className: "quiet" }, `${size}${faults ? `; ${faults}` : ""}`);
  }

  // A point for each channel over two statistics; what a drawn rectangle holds is listed.
  function drawScatter(place, layer, state, change) {
    const keys = Object.keys(STATISTICS).filter((key) => known(layer, key));
    const across = keys.includes(state.across) ? state.across : keys.includes("firing") ? "firing" : keys[0];
    const up = keys.includes(state.up) ? state.up : keys[0];
    const again = (changes) => {
      change({ across, up, ...changes });
      drawScatter(place, layer, state, change);
    };
    const points = layer.channels.map((channel) => [STATISTICS[across][1](channel), STATISTICS[up][1](channel), channel.number]).filter(([a, b]) => typeof a === "number" && typeof b === "number");
    if (keys.length < 2) return place.replaceChildren(make("p", { className: "quiet" }, "Fewer than two numbers of these channels differ."));
    const range = (at) => [Math.min(...points.map((point) => point[at])), Math.max(...points.map((point) => point[at]))];
    const [[left, right], [low, high]] = [range(0), range(1)];
    const { svg, x, y } = plot(`${STATISTICS[up][0]} over ${STATISTICS[across][0]}, a point for each of ${points.length} channels; draw a rectangle to list those inside`, [left, right], [low, high], [STATISTICS[across][0], STATISTICS[up][0]]);
    svg.append(draw("path", { class: "points", d: points.map(([a, b]) => `M ${x(a).toFixed(1)} ${y(b).toFixed(1)} h 0`).join(" ") }));
    const box = draw("rect", { class: "brush" });
    const size = (a, b, c, d) => Object.entries({ x: Math.min(a, c), y: Math.min(b, d), width: Math.abs(c - a), height: Math.abs(d - b) }).forEach(([name, value]) => box.setAttribute(name, value));
    if (state.brush) {
      const [a, b, c, d] = state.brush.split(",").map(Number);
      size(x(a), y(d), x(c), y(b));
    }
    svg.append(box);
    const at = (event) => {
      const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      return [Math.min(Math.max(point.x, 44), 350), Math.min(Math.max(point.y, 14), 150)];
    };
    let from;
    svg.onpointerdown = (event) => {
      from = at(event);
      svg.setPointerCapture(event.pointerId);
    };
    svg.onpointermove = (event) => from && size(...from, ...at(event));
    svg.onpointerup = (event) => {
      const [a, b] = from;
      const [c, d] = at(event);
      from = undefined;
      const value = (pixel, [first, last], [start, end]) => Number((first + ((pixel - start) * (last - first)) / (end - start)).toPrecision(5));
      const edges = [value(Math.min(a, c), [left, right], [44, 350]), value(Math.max(b, d), [high, low], [14, 150]), value(Math.max(a, c), [left, right], [44, 350]), value(Math.min(b, d), [high, low], [14, 150])];
      again({ brush: Math.abs(c - a) < 3 && Math.abs(d - b) < 3 ? null : edges.join(",") });
    };
    const options = keys.map((key) => [key, STATISTICS[key][0]]);
    const clear = make("button", { type: "button", textContent: "Clear", disabled: !state.brush });
    clear.onclick = () => again({ brush: null });
    place.replaceChildren(
      make("div", { className: "tools" }, choice("Across", across, options, (key) => again({ across: key, brush: null })), choice("Up", up, options, (key) => again({ up: key, brush: null })), clear, make("span", { className: "quiet" }, "Draw a rectangle: the list below keeps the channels in it.")),
      svg,
    );
  }

  Object.assign(convscope, { showLayer, without, claimOf });
})();
