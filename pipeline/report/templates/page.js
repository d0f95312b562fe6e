// The page of one job: its layers and channels.
"use strict";

convscope.ready("job").then((job) => {
  const { openLayer, make, address, number, percent, whenNear, patch, patchOf, largePatch, wholeOf, picture, figure, curve, draw, words, choice, facts, copyText } = convscope;
  const state = { whole: false, sort: "number", label: "", text: "" };

  const SORTS = {
    number: ["number", (channel) => channel.number],
    strength: ["strength: highest first", (channel) => -(channel.statistics.max ?? -Infinity)],
    firing: ["firing rate: highest first", (channel) => -(channel.statistics.share_positive ?? -1)],
    purity: ["purity of label: highest first", (channel) => -(channel.statistics.label_purity ?? -1)],
    selectivity: ["selectivity: highest first", (channel) => -(channel.statistics.selectivity ?? -Infinity)],
  };

  function cardOf(channel) {
    const { layer, statistics } = channel;
    const label = statistics.top_label ? `${statistics.top_label} ${percent(statistics.label_purity)}` : "";
    const tied = statistics.ties ? `${statistics.ties.toLocaleString("en")} more tie` : "";
    const caption = statistics.dead ? "never fires" : [label, tied].filter(Boolean).join(", ");
    const link = make("a", { href: address(layer.name, channel.number) }, `channel ${channel.number}`);
    return make("article", { className: "card" }, make("h2", { className: "card-title" }, link, make("span", { className: "quiet", title: caption }, caption)));
  }

  // Why a channel has no winners.
  const without = (statistics) => (statistics.dead ? `never fires in these ${statistics.seen?.toLocaleString("en") ?? ""} images` : "has no winners");

  function fillCard(card, channel) {
    card.querySelector(".patches")?.remove();
    const items = channel.winners.map((winner) => make("li", {}, picture(channel, winner, state.whole)));
    card.append(items.length ? make("ul", { className: "patches" }, ...items) : make("p", { className: "quiet" }, without(channel.statistics)));
  }

  async function showLayer(root, name) {
    const layer = await openLayer(job, name);
    const labels = new Map();
    for (const channel of layer.channels) for (const winner of channel.winners) if (winner.label !== null) labels.set(winner.label, 1 + (labels.get(winner.label) || 0));
    const known = Object.entries(SORTS).filter(([key]) => key !== "selectivity" || layer.channels.some((channel) => typeof channel.statistics.selectivity === "number"));
    if (!known.some(([key]) => key === state.sort)) state.sort = "number";
    const grid = make("div", { className: "channels" });
    const k = layer.tile ? layer.tile.k : 1;
    grid.style.setProperty("--card", `${Math.min(3, k) * 75 + 20}px`);
    grid.style.setProperty("--high", `${44 + 75 * Math.ceil(k / 3)}px`);
    const count = make("p", { className: "quiet", role: "status" });

    function again() {
      const text = state.text.toLowerCase();
      const matches = (winner) => (!state.label || winner.label === state.label) && (!text || `${winner.key} ${winner.label ?? ""}`.toLowerCase().includes(text));
      const chosen = layer.channels.filter((channel) => (!state.label && !text) || channel.winners.some(matches) || String(channel.number) === text);
      const order = SORTS[state.sort][1];
      chosen.sort((a, b) => order(a) - order(b) || a.number - b.number);
      count.textContent = chosen.length === layer.channels.length ? `${chosen.length} channels` : `${chosen.length} of ${layer.channels.length} channels`;
      const cards = new Map(chosen.map((channel) => [cardOf(channel), channel]));
      grid.replaceChildren(...cards.keys());
      whenNear(cards.keys(), (card) => fillCard(card, cards.get(card)));
    }

    const filter = make("input", { type: "search", value: state.text, placeholder: "file, label or number" });
    filter.oninput = () => {
      state.text = filter.value;
      again();
    };
    const most = [...labels].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
    if (!labels.has(state.label)) state.label = "";
    const list = [["", `any of ${most.length}`], ...most.slice(0, 500).map(([label, times]) => [label, `${label} (${times})`])];
    const toggle = make("button", { type: "button", textContent: "whole images", ariaPressed: String(state.whole), disabled: !Object.keys(job.images).length });
    toggle.onclick = () => {
      state.whole = !state.whole;
      toggle.ariaPressed = String(state.whole);
      again();
    };
    const tools = [choice("Sort by", state, "sort", known.map(([key, [text]]) => [key, text]), again)];
    if (most.length) tools.push(choice("Label", state, "label", list, again));
    tools.push(make("label", {}, "Find", filter), toggle);
    root.append(make("h1", { tabIndex: -1 }, name), describe(layer), make("div", { className: "tools", role: "group", ariaLabel: "Order and choice" }, ...tools), count, grid);
    if (!layer.channels.length) grid.append(make("p", { className: "notice" }, "No channel of this layer has been looked at."));
    again();
  }

  function describe(layer) {
    const { field } = layer;
    if (!field) return make("p", { className: "quiet" }, "receptive field not known");
    const sees = field.global ? "every unit sees the whole image" : `a unit sees up to ${field.height} × ${field.width} pixels, ${number(field.stride_y)} × ${number(field.stride_x)} apart`;
    return make("p", { className: "quiet" }, `${field.map_height} × ${field.map_width} × ${layer.count}, ${sees}`);
  }

  function histogram(statistics) {
    const { histogram: counts, histogram_edges: edges } = statistics;
    if (!counts || !counts.length) return null;
    const most = Math.max(...counts);
    const svg = draw("svg", { class: "histogram", viewBox: "0 0 320 140", role: "img", "aria-label": `Histogram of the channel's responses from ${number(edges[0])} to ${number(edges[edges.length - 1])}` });
    counts.forEach((count, i) => {
      const high = most ? (110 * count) / most : 0;
      const bar = draw("rect", { x: (320 * i) / counts.length + 0.5, y: 112 - high, width: 320 / counts.length - 1, height: high });
      bar.append(draw("title", {}, `${number(edges[i])} to ${number(edges[i + 1])}: ${count}`));
      svg.append(bar);
    });
    svg.append(draw("text", { x: 0, y: 130 }, number(edges[0])), draw("text", { x: 320, y: 130, "text-anchor": "end" }, number(edges[edges.length - 1])));
    return make("div", {}, make("h2", {}, "Responses"), svg);
  }

  function labelsOf(winners) {
    const counts = new Map();
    for (const { label } of winners) if (label !== null) counts.set(label, 1 + (counts.get(label) || 0));
    if (!counts.size) return null;
    const lines = [...counts].sort((a, b) => b[1] - a[1]).map(([label, count]) => {
      const bar = make("span", { className: "bar" });
      bar.style.width = `${(100 * count) / winners.length}%`;
      return make("tr", {}, make("th", { scope: "row" }, label), make("td", {}, `${count} of ${winners.length}`, bar));
    });
    return make("div", {}, make("h2", {}, "Labels of the winners"), make("table", {}, make("tbody", {}, ...lines)));
  }

  function enlarge(channel, winner) {
    const close = make("button", { type: "button", textContent: "Close", autofocus: true });
    const shown = wholeOf(channel, winner) || patchOf(channel, winner);
    const dialog = make("dialog", { ariaLabel: words(winner) }, shown, make("p", {}, words(winner)), close);
    close.onclick = () => dialog.close();
    dialog.onclick = (event) => event.target === dialog && dialog.close();
    dialog.onclose = () => dialog.remove();
    document.body.append(dialog);
    dialog.showModal();
  }

  async function showChannel(root, name, wanted) {
    const layer = await openLayer(job, name);
    const at = layer.channels.findIndex((channel) => String(channel.number) === wanted);
    if (at < 0) throw new Error(`${name} has no channel ${wanted} in this job.`);
    const channel = layer.channels[at];
    const { statistics, winners } = channel;
    const step = (to, text, rel) => (layer.channels[to] ? make("a", { href: address(name, layer.channels[to].number), rel }, text) : make("span", { className: "quiet" }, text));
    const steps = make("nav", { className: "steps", ariaLabel: "Channels" }, step(at - 1, "← previous", "prev"), make("a", { href: address(name), rel: "up" }, name), step(at + 1, "next →", "next"));
    const items = winners.map((winner) => {
      const pair = make("div", { className: "pair" }, largePatch(channel, winner) || picture(channel, winner, false));
      if (layer.tile && wholeOf(channel, winner)) {
        const button = make("button", { type: "button", ariaLabel: `Enlarge the whole image of rank ${winner.rank}` }, wholeOf(channel, winner));
        button.onclick = () => enlarge(channel, winner);
        button.style.padding = "0";
        pair.append(button);
      }
      const where = `row ${winner.row}, column ${winner.col}; pixels ${winner.src_x1}–${winner.src_x2} × ${winner.src_y1}–${winner.src_y2}`;
      return make("li", {}, pair, make("p", {}, make("strong", {}, number(winner.score, 5)), ` ${winner.label ?? ""}`, make("br"), winner.key, make("br"), make("span", { className: "quiet" }, where)));
    });
    const query = `SELECT * FROM 'index/activations.parquet'\nWHERE layer = '${name.replaceAll("'", "''")}' AND channel = ${channel.number} ORDER BY rank;`;
    const copy = make("button", { type: "button", textContent: "Copy" });
    copy.onclick = () => copyText(query, copy);
    const numbers = facts([
      ["images seen", statistics.seen?.toLocaleString("en")],
      ["mean", number(statistics.mean)],
      ["standard deviation", number(statistics.std)],
      ["maximum", number(statistics.max)],
      ["quartiles", typeof statistics.q50 === "number" ? `${number(statistics.q25)}, ${number(statistics.q50)}, ${number(statistics.q75)}` : null],
      ["share above zero", percent(statistics.share_positive)],
      ["saturated", statistics.saturated ? `yes: ${percent(statistics.share_at_max)} at the maximum` : null],
      ["always negative", statistics.always_negative ? "yes" : null],
      ["tie with the last winner", statistics.ties ? `${statistics.ties.toLocaleString("en")} more images` : null],
      ["dead", statistics.dead === undefined || statistics.dead === null ? null : statistics.dead ? "yes" : "no"],
      ["selective for", statistics.selective_label ? `${statistics.selective_label} (index ${number(statistics.selectivity)})` : null],
      ["twin channel", twin(layer, statistics)],
      ...channel.filters.flatMap((filter) => [
        [`norm of the ${filter.part}`, number(filter.norm)],
        [`nearest ${filter.part}`, typeof filter.twin === "number" ? make("a", { href: address(name, filter.twin) }, `channel ${filter.twin} (cosine ${number(filter.twin_cosine)})`) : null],
      ]),
    ]);
    root.append(
      make("h1", { tabIndex: -1 }, `${name}, channel ${channel.number}`),
      steps,
      make("h2", {}, "Strongest patches"),
      items.length ? make("ol", { className: "winners" }, ...items) : make("p", { className: "notice" }, `This channel ${without(statistics)}.`),
      statistics.ties ? make("p", { className: "notice" }, `${statistics.ties.toLocaleString("en")} more images tie with the last of these: which of them are listed is a matter of their order alone.`) : "",
      make("div", { className: "columns" }, make("div", {}, make("h2", {}, "Numbers"), numbers), histogram(statistics), labelsOf(winners)),
      ...kernelsOf(channel),
      ...patternsOf(channel),
      ...listed(channel, channel.byLabel, "Strongest for each label"),
      ...listed(channel, channel.weakest, "Weakest"),
      make("h2", {}, "These rows, in DuckDB"),
      make("pre", { tabIndex: 0 }, query),
      copy,
    );
  }

  function twin(layer, statistics) {
    if (typeof statistics.twin !== "number") return null;
    return make("a", { href: address(layer.name, statistics.twin) }, `channel ${statistics.twin} (correlation ${number(statistics.twin_correlation)})`);
  }

  function patternsOf(channel) {
    const shown = channel.patterns.filter((row) => row.file).map((row) => {
      const strongest = typeof row.strongest === "number" ? `; the strongest patch has ${number(row.strongest)}` : "";
      const part = make("div", {}, figure(row.file, `dreamed, ${row.sign}: reaches ${number(row.reached)}${strongest}`));
      const losses = curve(row.losses, "Objective by step");
      if (losses) part.append(losses);
      return part;
    });
    return shown.length ? [make("h2", {}, "Patterns"), make("div", { className: "pictures" }, ...shown)] : [];
  }

  function kernelsOf(channel) {
    const shown = channel.kernels.map((file) => figure(file, `kernel of channel ${channel.number}`, { className: "kernel" }));
    return shown.length ? [make("h2", {}, "Kernel"), make("div", { className: "pictures" }, ...shown)] : [];
  }

  // Whole images of responses that are listed and not cropped.
  function listed(channel, winners, title) {
    if (!winners.length) return [];
    const items = winners.map((winner) => make("li", {}, wholeOf(channel, winner) || words(winner), make("p", {}, make("strong", {}, number(winner.score, 4)), ` ${winner.label ?? ""}`)));
    return [make("h2", {}, title), make("ol", { className: "listed" }, ...items)];
  }

  // ---- explanations, feature maps and dreams

  async function showExplanations(root) {
    const images = await convscope.load("explanations", "data/+explanations.js");
    const articles = images.map((image) => make("article", { className: "explained" }, make("h2", {}, image.key)));
    whenNear(articles, (article) => explain(article, images[articles.indexOf(article)]));
    root.append(make("h1", { tabIndex: -1 }, "Explanations"), make("p", { className: "quiet" }, `${images.length} images: what the network says of each, and where the evidence for it lies.`), ...articles);
  }

  const classOf = (row) => row.target && row.target !== row.name ? row.target : row.name === null || row.name === String(row.class) ? `class ${row.class}` : row.name;

  function explain(article, image) {
    const lines = image.top.map((row) => make("tr", {}, make("th", { scope: "row" }, classOf(row)), make("td", {}, row.says)));
    if (image.label !== null) article.append(make("p", { className: "quiet" }, `labelled ${image.label}`));
    const parts = image.groups.map((group) => {
      const at = group.layer ? ` at ${group.layer}` : "";
      const title = `${classOf(group)}, ${group.says}${at}`;
      const methods = group.maps.map((map) => (map.rule ? `${map.method} (${map.rule})` : map.method));
      const figures = group.together
        ? [figure(`../${group.together}`, `the image, ${methods.join(", ")}`)]
        : group.maps.map((map, at) => figure(`../${map.picture}`, methods[at]));
      return make("section", {}, make("h3", {}, title), make("div", { className: group.together ? "together" : "pictures" }, ...figures));
    });
    article.append(make("table", { className: "narrow" }, make("tbody", {}, ...lines)), ...parts);
  }

  async function showMaps(root) {
    const images = await convscope.load("maps", "data/+maps.js");
    const parts = images.flatMap((image) => [
      make("h2", {}, image.key),
      ...image.layers.map((one) => {
        const dead = one.dead ? `, ${one.dead} of them the same everywhere` : "";
        const caption = `${image.key} at ${one.layer}: ${one.channels} channels${dead}`;
        return make("div", { className: "together maps" }, make("h3", {}, make("a", { href: address(one.layer) }, one.layer)), figure(`../${one.picture}`, caption));
      }),
    ]);
    root.append(make("h1", { tabIndex: -1 }, "Feature maps"), make("p", { className: "quiet" }, `What every channel of a layer makes of an image, for ${images.length} images.`), ...parts);
  }

  async function showDreams(root) {
    const dreams = await convscope.load("dreams", "data/+dreams.js");
    const parts = dreams.map((dream) => {
      const caption = `${dream.title}: ${dream.objective}; reaches ${number(dream.reached)}`;
      const part = make("div", {}, dream.picture ? figure(`../${dream.picture}`, caption) : make("p", {}, caption));
      const losses = curve(dream.losses, "Loss by step");
      if (losses) part.append(losses);
      return part;
    });
    root.append(make("h1", { tabIndex: -1 }, "Dreams"), make("div", { className: "pictures large" }, ...parts));
  }

  const layers = new Map(job.layers.map((layer) => [layer.name, layer]));
  whenNear(document.querySelectorAll(".strip"), (strip) => {
    const layer = layers.get(strip.dataset.layer);
    strip.ariaHidden = "true"; // the link beside it says it in words
    for (const number of Object.keys(layer.rows).slice(0, 16)) strip.append(patch(layer, number, 0));
  });
  const VIEWS = { "+explanations": showExplanations, "+maps": showMaps, "+dreams": showDreams };
  convscope.follow(job.name, (root, [first, channel]) => {
    const view = VIEWS[first];
    return view ? view(root) : channel === undefined ? showLayer(root, first) : showChannel(root, first, channel);
  });
});
