// The page of two jobs: the same layers, and the channels that answer to the same images, side by side.
"use strict";

convscope.ready("comparison").then(({ jobs, across, channels }) => {
  const { rows, openLayer, make, heading, link, address, lastOf, number, percent, count, whenNear, strip, choice, facts, term } = convscope;
  const compared = rows(channels);
  const SORTS = {
    overlap: ["overlap: least first", (row) => row.overlap ?? 2],
    correlation: ["correlation: least first", (row) => row.correlation ?? 2],
    match: ["correlation: highest first", (row) => -(row.correlation ?? -2)],
    shift: ["shift: largest first", (row) => -Math.abs(row.shift ?? 0)],
    number: ["number", (row) => row.channel],
  };
  const PER_PAGE = 60;

  const sides = async (row) => (await Promise.all(jobs.map((job, side) => openLayer(job, side ? row.other_layer : row.layer)))).map((layer, side) => layer.numbers.get(side ? row.other : row.channel));
  const nameOf = (row) => (row.other_layer !== row.layer ? `channel ${row.channel} and ${row.other_layer}, channel ${row.other}` : row.other === row.channel ? `channel ${row.channel}` : `channel ${row.channel} and ${row.other}`);

  async function fill(card, row, whole) {
    const strips = (await sides(row)).map((channel, side) => make("div", {}, make("p", { className: "quiet" }, `${"AB"[side]}: ${jobs[side].name}, channel ${channel.number}${channel.name ? `: ${channel.name.concept}` : ""}`), channel.winners.length ? strip(channel, 9, whole) : make("p", { className: "quiet" }, "never fires")));
    card.append(make("div", { className: "sides" }, ...strips));
  }

  function title(row) {
    const match = row.correlation === null ? "" : `correlation ${number(row.correlation)}, `;
    const caption = `${match}overlap ${percent(row.overlap)}${row.shift === null ? "" : `, shift ${number(row.shift)}`}`;
    return make("h2", { className: "card-title" }, link(nameOf(row), address(row.layer, row.channel)), make("span", { className: "quiet" }, caption));
  }

  async function showLayer(root, [name], { sort = across ? "match" : "overlap", whole, page = "1" }) {
    const of = compared.filter((row) => row.layer === name);
    if (!of.length) throw new Error(`${name} is not a layer of both jobs.`);
    const order = (SORTS[sort] || SORTS.overlap)[1];
    const list = [...of].sort((a, b) => order(a) - order(b) || a.channel - b.channel);
    const last = Math.ceil(list.length / PER_PAGE);
    const now = Math.min(Math.max(Number(page) || 1, 1), last);
    const cards = new Map(list.slice((now - 1) * PER_PAGE, now * PER_PAGE).map((row) => [make("article", { className: "card" }, title(row)), row]));
    whenNear(cards.keys(), (card) => fill(card, cards.get(card), whole === "1"));
    const go = (changes) => (location.hash = address(name, { sort, whole, ...changes }));
    const needs = { correlation: "correlation", match: "correlation", shift: "shift" };
    const known = Object.entries(SORTS).filter(([key]) => !needs[key] || of.some((row) => row[needs[key]] !== null));
    const toggle = make("button", { type: "button", textContent: "whole images", ariaPressed: String(whole === "1") });
    toggle.onclick = () => go({ whole: whole === "1" ? null : "1", page });
    const tools = [choice("Sort by", sort, known.map(([key, [text]]) => [key, text]), (key) => go({ sort: key })), toggle];
    const turn = (to, text, rel) => (to < 1 || to > last ? "" : link(text, address(name, { sort, whole, page: to }), { rel }));
    root.append(
      heading(name),
      make("div", { className: "tools", role: "group", ariaLabel: "Order" }, ...tools),
      make("div", { className: "over" }, make("p", { className: "quiet" }, `${count(of.length, "channel")}${last > 1 ? `, page ${now} of ${last}` : ""}`), make("nav", { className: "steps", ariaLabel: "Pages" }, turn(now - 1, "← previous page", "prev"), turn(now + 1, "next page →", "next"))),
      make("div", { className: "channels compared" }, ...cards.keys()),
    );
  }

  async function showChannel(root, [name, wanted]) {
    const of = compared.filter((row) => row.layer === name);
    const at = of.findIndex((row) => String(row.channel) === wanted);
    if (at < 0) throw new Error(`Channel ${wanted} of ${name} is not in both jobs.`);
    const row = of[at];
    const step = (to, text, rel) => (of[to] ? link(text, address(name, of[to].channel), { rel }) : make("span", { className: "quiet" }, text));
    const steps = make("nav", { className: "steps", ariaLabel: "Channels" }, step(at - 1, "← previous", "prev"), link(name, lastOf(name), { rel: "up" }), step(at + 1, "next →", "next"));
    const columns = (await sides(row)).map((channel, side) => {
      const { statistics } = channel;
      const numbers = facts([
        ["mean", number(statistics.mean)],
        ["standard deviation", number(statistics.std)],
        ["maximum", number(statistics.max)],
        ["share above zero", percent(statistics.share_positive)],
        ["purity", statistics.top_label ? `${percent(statistics.label_purity)} ${statistics.top_label}` : null],
      ]);
      return make("div", {}, make("h2", {}, `${"AB"[side]}: ${jobs[side].name}, channel ${channel.number}${channel.name ? `: ${channel.name.concept}` : ""}`), numbers, strip(channel), make("h3", {}, "Whole images"), strip(channel, 9, true));
    });
    const match = row.correlation === null ? "" : `The responses of the two correlate by ${number(row.correlation)}. `;
    root.append(heading(`${name}, ${nameOf(row)}`), steps, make("p", {}, match, term("overlap", "Overlap"), ` of winners ${percent(row.overlap)}`, row.shift === null ? "." : `; the mean moved by ${number(row.shift)} standard deviations of A.`), make("div", { className: "columns" }, ...columns));
  }

  for (const word of document.querySelectorAll("[data-term]")) word.replaceWith(term(word.dataset.term, word.textContent));
  convscope.follow(`${jobs[0].name} and ${jobs[1].name}`, (root, parts, settings) => {
    if (parts[0] === "+glossary") return convscope.showGlossary(null, root, parts);
    return parts.length === 1 ? showLayer(root, parts, settings) : showChannel(root, parts);
  });
});
