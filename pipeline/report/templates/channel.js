// The view of a channel: what excites it, its numbers, its neighbours, its kernel and its patterns.
"use strict";

(() => {
  const { openLayer, openDetails, make, heading, link, address, lastOf, number, percent, count, facts, copyText, saveCsv, saveParquet, circuitsOf, largePatch, wholeOf, picture, strip, imageAddress, words, figure, curve, histogram, term, claimOf } = convscope;

  const section = (title, ...content) => (content.some(Boolean) ? make("section", {}, make("h2", {}, title), ...content) : null);

  // How a winner is ranked: by its response, which an upper clamp may have cut.
  const strength = (winner) => (typeof winner.unclipped === "number" && winner.unclipped !== winner.score ? [make("strong", {}, number(winner.unclipped, 4)), ` (clamped to ${number(winner.score)})`] : [make("strong", {}, number(winner.score, 4))]);

  function winnerItem(channel, winner, details) {
    const row = { ...details.winners.find((other) => other.rank === winner.rank) };
    const image = wholeOf(channel, winner, details.maps[winner.rank]);
    const patch = largePatch(channel, winner);
    const pictures = [patch, image].filter(Boolean).map((shown) => link(shown, imageAddress(channel, winner), { className: "cell" }));
    if (pictures.length > 1) pictures[0].tabIndex = -1; // both lead to the same view
    const position = typeof row.row === "number" ? `row ${row.row}, column ${row.col}; ` : "";
    const text = make("p", {}, ...strength({ ...winner, ...row }), ` ${winner.label ?? ""}`, make("br"), winner.key, make("br"), make("span", { className: "quiet" }, `${position}pixels ${winner.x1}–${winner.x2} × ${winner.y1}–${winner.y2}`));
    return make("li", {}, make("div", { className: "pair" }, ...(pictures.length ? pictures : [picture(channel, winner)])), text);
  }

  function labelsOf(winners) {
    const counts = new Map();
    for (const { label } of winners) if (label !== null) counts.set(label, 1 + (counts.get(label) || 0));
    const lines = [...counts].sort((a, b) => b[1] - a[1]).map(([label, times]) => {
      const bar = make("span", { className: "bar" });
      bar.style.width = `${(100 * times) / winners.length}%`;
      return make("tr", {}, make("th", { scope: "row" }, link(label, address("+label", label))), make("td", {}, `${times} of ${winners.length}`, bar));
    });
    return lines.length ? make("table", {}, make("tbody", {}, ...lines)) : null;
  }

  function sentence({ statistics }) {
    if (statistics.dead) return "";
    const parts = [
      typeof statistics.share_positive === "number" ? `Fires for ${percent(statistics.share_positive)} of ${count(statistics.seen ?? 0, "image")}` : "",
      typeof statistics.max === "number" ? `reaches ${number(statistics.max)}` : "",
      statistics.selective_label && statistics.selectivity >= 0.1 ? `answers most to ${statistics.selective_label}` : "",
    ].filter(Boolean);
    return parts.length ? `${parts.join(", ")}.` : "";
  }

  function numbersOf(channel, details) {
    const { statistics, layer } = channel;
    const to = (other, text) => (typeof other === "number" ? link(`channel ${other} (${text})`, address(layer.name, other)) : null);
    return facts([
      ["images seen", statistics.seen?.toLocaleString("en")],
      ["mean", number(statistics.mean)],
      ["standard deviation", number(statistics.std)],
      ["maximum", number(statistics.max)],
      ["quartiles", typeof statistics.q50 === "number" ? `${number(statistics.q25)}, ${number(statistics.q50)}, ${number(statistics.q75)}` : null],
      ["share above zero", percent(statistics.share_positive)],
      ["saturated", statistics.saturated ? `yes: ${percent(statistics.share_at_max)} at the maximum` : null],
      ["always negative", statistics.always_negative ? "yes" : null],
      ["ties", statistics.ties ? count(statistics.ties, "more image") : null],
      ["dead", typeof statistics.dead === "boolean" ? (statistics.dead ? "yes" : "no") : null],
      ["selectivity", statistics.selective_label ? `${number(statistics.selectivity)}, for ${statistics.selective_label}` : null],
      ["purity", statistics.top_label ? `${percent(statistics.label_purity)} ${statistics.top_label}` : null],
      ["clarity", number(statistics.clarity)],
      ["polysemanticity", number(statistics.polysemanticity)],
      ["redundancy", to(statistics.alike, number(statistics.redundancy))],
      ["twin", to(statistics.twin, `correlation ${number(statistics.twin_correlation)}`)],
      ...details.filters.flatMap((filter) => [
        [`norm of the ${filter.part}`, number(filter.norm)],
        [`nearest ${filter.part}`, to(filter.twin, `cosine ${number(filter.twin_cosine)}`)],
      ]),
    ]);
  }

  async function neighboursOf(channel, neighbours) {
    const { job, layer } = channel;
    const groups = [
      ["In this layer", neighbours.filter((row) => row.other_layer === layer.name)],
      ["In other layers", neighbours.filter((row) => row.other_layer !== layer.name && job.layers.some((other) => other.name === row.other_layer))],
    ].filter(([, list]) => list.length);
    const parts = [];
    for (const [title, list] of groups) {
      const items = [];
      for (const row of list) {
        const other = (await openLayer(job, row.other_layer)).numbers.get(row.other_channel);
        const name = row.other_layer === layer.name ? `channel ${row.other_channel}` : `${row.other_layer}, channel ${row.other_channel}`;
        if (other) items.push(make("li", {}, make("span", {}, link(name, address(row.other_layer, row.other_channel)), make("span", { className: "quiet" }, ` ${number(row.correlation)}`)), strip(other, 5)));
      }
      parts.push(make("div", {}, make("h3", {}, title), make("ol", { className: "strips" }, ...items)));
    }
    return parts.length ? make("div", { className: "columns" }, ...parts) : null;
  }

  // The inputs that a filter weighs most, by name, each the way to its channel where the job has it.
  async function inputsOf(channel, filters) {
    const lists = [];
    for (const filter of filters.filter((row) => row.strongest_inputs?.length)) {
      const source = channel.job.layers.find((layer) => layer.name === filter.inputs_of);
      const opened = source ? await openLayer(channel.job, source.name) : null;
      const items = filter.strongest_inputs.map((input, at) => {
        const name = filter.inputs_of ? `${filter.inputs_of}, channel ${input}` : `input ${input}`;
        const other = opened?.numbers.get(input);
        const weight = make("span", { className: "quiet" }, ` ${number(filter.input_weights[at])}`);
        return make("li", {}, make("span", {}, other ? link(name, address(source.name, input)) : name, weight), other ? strip(other, 5) : null);
      });
      lists.push(make("div", {}, make("h3", {}, `Strongest inputs of the ${filter.part}`), make("ol", { className: "strips" }, ...items)));
    }
    return lists;
  }

  function patternsOf(channel, rows) {
    return channel.patterns.map((pattern) => {
      const row = rows.find((other) => other.sign === pattern.sign && other.variant === pattern.variant) || {};
      const strongest = typeof row.strongest === "number" ? `; the strongest patch has ${number(row.strongest)}` : "";
      return make("div", {}, figure(pattern.file, `${pattern.sign} pattern: reaches ${number(row.reached)}${strongest}`), curve(row.losses, "Objective by step"));
    });
  }

  // Whole images of responses that are listed and not cropped.
  function listed(channel, winners) {
    if (!winners.length) return null;
    const items = winners.map((winner) => make("li", {}, link(wholeOf(channel, winner) || words(winner), imageAddress(channel, winner), { className: "cell" }), make("p", {}, make("strong", {}, number(winner.score, 4)), ` ${winner.label ?? ""}`)));
    return make("ol", { className: "listed" }, ...items);
  }

  function rowsOf(channel, details) {
    const name = channel.layer.name;
    const query = `SELECT * FROM 'index/activations.parquet'\nWHERE layer = '${name.replaceAll("'", "''")}' AND channel = ${channel.number} ORDER BY rank;`;
    const copy = make("button", { type: "button", textContent: "Copy" });
    copy.onclick = () => copyText(query, copy);
    const wide = channel.winners.map((winner) => ({ layer: name, ...winner, ...details.winners.find((row) => row.rank === winner.rank) }));
    const file = `${name.replace(/[^\w.-]+/g, "_")}-${channel.number}`;
    const saves = [["CSV", saveCsv], ["Parquet", saveParquet]].map(([format, save]) => {
      const button = make("button", { type: "button", textContent: `Save as ${format}`, disabled: !wide.length });
      button.onclick = () => save(wide, `${file}.${format.toLowerCase()}`);
      return button;
    });
    return [make("p", { className: "steps" }, ...saves, "or in DuckDB, from the job's folder:", copy), make("pre", { tabIndex: 0 }, query)];
  }

  // The concepts that agree best, a line for each measure.
  function conceptsOf(concepts) {
    const measures = new Map();
    for (const row of concepts) measures.set(row.measure, [...(measures.get(row.measure) || []), row]);
    const lines = [...measures].map(([measure, rows]) => {
      const best = rows.map((row) => make("li", {}, row.named ? make("strong", {}, row.concept) : row.concept, make("span", { className: "quiet" }, ` ${number(row.value)}`)));
      return make("tr", {}, make("th", { scope: "row" }, `${measure.replaceAll("_", " ")}, ${rows[0].source}`), make("td", {}, make("ul", { className: "inline" }, ...best)), make("td", {}, number(rows[0].margin, 2)), make("td", {}, rows[0].chance === null ? "–" : percent(rows[0].chance)));
    });
    const head = make("tr", {}, ...["measure", "concepts", "margin", "chance"].map((text) => make("th", { scope: "col" }, term(text))));
    return lines.length ? make("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: "Concepts" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...lines))) : null;
  }

  async function showChannel(job, root, [name, wanted]) {
    const layer = await openLayer(job, name);
    const channel = layer.numbers.get(Number(wanted));
    if (!channel) throw new Error(`${name} has no channel ${wanted} in this job.`);
    const details = await openDetails(channel);
    const { statistics, winners } = channel;
    const sequence = layer.sequence?.includes(channel.number) ? layer.sequence : layer.channels.map((other) => other.number);
    const at = sequence.indexOf(channel.number);
    const step = (to, text, rel) => (sequence[to] === undefined ? make("span", { className: "quiet" }, text) : link(text, address(name, sequence[to]), { rel }));
    const patterns = patternsOf(channel, details.patterns);
    const items = winners.map((winner) => winnerItem(channel, winner, details));
    const kernels = details.kernels.map((file) => figure(file, `kernel of channel ${channel.number}`, { className: "kernel" }));
    const inputs = await inputsOf(channel, details.filters);
    root.append(
      heading(`${name}, channel ${channel.number}${channel.name ? `: ${channel.name.concept}` : ""}`),
      make("nav", { className: "steps", ariaLabel: "Channels" }, step(at - 1, "← previous", "prev"), link(name, lastOf(name), { rel: "up" }), step(at + 1, "next →", "next")),
      make("p", {}, sentence(channel)),
      channel.name ? make("p", { className: "quiet" }, term("name", "Named"), ` ${claimOf(channel.name)}.`) : "",
      statistics.ties ? make("p", { className: "notice" }, `${count(statistics.ties, "more image")} ${statistics.ties === 1 ? "ties" : "tie"} with the last of these: which of them are listed is a matter of their order alone.`) : "",
      ...[
        section("Patterns", patterns.length ? make("div", { className: "pictures small" }, ...patterns) : null),
        section("Strongest patches", items.length ? make("ol", { className: "winners" }, ...items) : make("p", { className: "notice" }, `This channel ${convscope.without(statistics)}.`)),
        make("div", { className: "columns" }, section("Numbers", numbersOf(channel, details)), section("Responses", histogram(details.histogram, winners)), section("Labels of the winners", labelsOf(winners))),
        section("Concepts", conceptsOf(details.concepts)),
        section("Nearest channels", await neighboursOf(channel, details.neighbours)),
        section("Circuit", await circuitsOf(channel, details.circuits)),
        section("Kernel", kernels.length ? make("div", { className: "pictures small" }, ...kernels) : null, ...inputs),
        section("Strongest for each label", listed(channel, details.by_label)),
        section("Weakest", listed(channel, details.weakest)),
        section("These rows", ...rowsOf(channel, details)),
      ].filter(Boolean),
    );
  }

  Object.assign(convscope, { showChannel });
})();
