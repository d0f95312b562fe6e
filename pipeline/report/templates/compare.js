// The page of two jobs: the same layers and channels side by side.
"use strict";

convscope.ready("comparison").then(({ jobs, layers, channels }) => {
  const { rows, openLayer, make, address, number, percent, whenNear, picture, choice, facts } = convscope;
  const state = { sort: "overlap", whole: false };
  const compared = rows(channels);
  const SORTS = {
    overlap: ["overlap: least first", (row) => row.overlap ?? 2],
    shift: ["shift: largest first", (row) => -Math.abs(row.shift ?? 0)],
    number: ["number", (row) => row.channel],
  };

  async function sides(layer, wanted) {
    const opened = await Promise.all(jobs.map((job) => openLayer(job, layer)));
    return opened.map((side) => side.channels.find((channel) => channel.number === wanted));
  }

  async function fill(card, row) {
    const both = await sides(row.layer, row.channel);
    const strips = both.map((channel, side) => {
      const items = channel.winners.map((winner) => make("li", {}, picture(channel, winner, state.whole)));
      return make("div", {}, make("p", { className: "quiet" }, `${"AB"[side]} ${jobs[side].name}`), make("ul", { className: "patches" }, ...items));
    });
    card.append(make("div", { className: "sides" }, ...strips));
  }

  function title(row) {
    const caption = `overlap ${percent(row.overlap)}, shift ${number(row.shift)}`;
    const link = make("a", { href: address(row.layer, row.channel) }, `channel ${row.channel}`);
    return make("h2", { className: "card-title" }, link, make("span", { className: "quiet" }, caption));
  }

  async function showLayer(root, name) {
    const of = compared.filter((row) => row.layer === name);
    if (!of.length) throw new Error(`${name} is not a layer of both jobs.`);
    const grid = make("div", { className: "channels compared" });
    function again() {
      const order = SORTS[state.sort][1];
      const cards = new Map([...of].sort((a, b) => order(a) - order(b) || a.channel - b.channel).map((row) => [make("article", { className: "card" }, title(row)), row]));
      grid.replaceChildren(...cards.keys());
      whenNear(cards.keys(), (card) => fill(card, cards.get(card)));
    }
    const toggle = make("button", { type: "button", textContent: "whole images", ariaPressed: String(state.whole) });
    toggle.onclick = () => {
      state.whole = !state.whole;
      toggle.ariaPressed = String(state.whole);
      again();
    };
    const tools = [choice("Sort by", state, "sort", Object.entries(SORTS).map(([key, [text]]) => [key, text]), again), toggle];
    root.append(make("h1", { tabIndex: -1 }, name), make("div", { className: "tools", role: "group", ariaLabel: "Order" }, ...tools), grid);
    again();
  }

  async function showChannel(root, name, wanted) {
    const of = compared.filter((row) => row.layer === name);
    const at = of.findIndex((row) => String(row.channel) === wanted);
    if (at < 0) throw new Error(`Channel ${wanted} of ${name} is not in both jobs.`);
    const row = of[at];
    const step = (to, text, rel) => (of[to] ? make("a", { href: address(name, of[to].channel), rel }, text) : make("span", { className: "quiet" }, text));
    const steps = make("nav", { className: "steps", ariaLabel: "Channels" }, step(at - 1, "← previous", "prev"), make("a", { href: address(name), rel: "up" }, name), step(at + 1, "next →", "next"));
    const both = await sides(name, row.channel);
    const columns = both.map((channel, side) => {
      const items = channel.winners.map((winner) => make("li", {}, picture(channel, winner, false), picture(channel, winner, true)));
      const { statistics } = channel;
      const numbers = facts([
        ["mean", number(statistics.mean)],
        ["standard deviation", number(statistics.std)],
        ["maximum", number(statistics.max)],
        ["share above zero", percent(statistics.share_positive)],
        ["top label", statistics.top_label],
      ]);
      return make("div", {}, make("h2", {}, `${"AB"[side]}: ${jobs[side].name}`), numbers, make("ul", { className: "patches pairs" }, ...items));
    });
    const caption = `Overlap of winners ${percent(row.overlap)}; the mean moved by ${number(row.shift)} standard deviations of A.`;
    root.append(make("h1", { tabIndex: -1 }, `${name}, channel ${row.channel}`), steps, make("p", {}, caption), make("div", { className: "columns" }, ...columns));
  }

  convscope.follow(`${jobs[0].name} and ${jobs[1].name}`, (root, [layer, channel]) => (channel === undefined ? showLayer(root, layer) : showChannel(root, layer, channel)));
});
