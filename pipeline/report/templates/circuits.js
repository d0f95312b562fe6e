// What a channel is made from and used by: earlier and later channels, with weights and patches.
"use strict";

(() => {
  const { openLayer, make, link, address, number, percent, strip, term, count } = convscope;
  const LOW = 0.5; // a rank correlation below which weights and winners are said to disagree

  const titles = { "made from": "Made from", "used by": "Used by" };

  // A pair of channels: the kernel between them, the other channel's name, and its patches.
  function pair(row, other) {
    const name = `channel ${row.other_channel}${other?.name ? `: ${other.name.concept}` : ""}`;
    const added = typeof row.contribution === "number" ? `; adds ${number(row.contribution)} to the winners (rank ${row.contribution_rank + 1})` : "";
    const words = `weight ${number(row.weight)}, ${percent(row.share)} of all${added}`;
    const kernel = make("img", { src: row.picture, className: "kernel", alt: `weights of ${row.kernel_shape.join(" by ")} units` });
    return make("li", {}, make("span", {}, other ? link(name, address(row.other_layer, row.other_channel)) : name, make("span", { className: "quiet" }, ` ${words}`)), make("div", { className: "ends" }, kernel, other ? strip(other, 5) : ""));
  }

  // What the lists rest on: what was passed as linear, where paths end, and whether winners agree.
  function groundsOf({ passed, ended, agreement, side }) {
    const lines = [];
    if (passed.length) lines.push(`Between the two, ${passed.join(", ")} passed as linear.`);
    if (ended.length) lines.push(`Weights say nothing of what passes through ${ended.slice(0, 3).join("; ")}${ended.length > 3 ? ` and ${ended.length - 3} more` : ""}.`);
    const parts = [make("p", { className: "quiet" }, lines.join(" "))];
    if (side === "made from" && typeof agreement === "number") {
      const words = [term("agreement", "Agreement"), ` of weights and winners: ${number(agreement, 2)}.`];
      parts.push(agreement < LOW ? make("p", { className: "notice" }, ...words, " The two disagree: the order by weight is not the order in which its winners are made. Go by what is added to them.") : make("p", { className: "quiet" }, ...words));
    }
    return parts;
  }

  // The two lists of a channel; null where the stage has not looked at it.
  async function circuitsOf(channel, rows) {
    const groups = new Map();
    for (const row of rows) {
      const key = `${row.side}\n${row.other_layer}`;
      groups.set(key, [...(groups.get(key) || []), row]);
    }
    const lists = [];
    for (const of of groups.values()) {
      const [{ side, other_layer: name }] = of;
      const opened = channel.job.layers.some((layer) => layer.name === name) ? await openLayer(channel.job, name) : null;
      const items = of.sort((a, b) => a.rank - b.rank).map((row) => pair(row, opened?.numbers.get(row.other_channel)));
      lists.push(make("div", {}, make("h3", {}, `${titles[side]} ${count(of.length, "channel")} of ${name}`), ...groundsOf(of[0]), make("ol", { className: "strips" }, ...items)));
    }
    return lists.length ? make("div", { className: "columns" }, ...lists) : null;
  }

  Object.assign(convscope, { circuitsOf });
})();
