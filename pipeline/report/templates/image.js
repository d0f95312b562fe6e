// The views of an image, of a label, and of what a search finds over all layers.
"use strict";

(() => {
  const { openEvery, openDetails, openImages, make, heading, link, address, lastOf, number, count, term, note, copyText, whenNear, whole, strip, largePatch } = convscope;

  const photograph = (image) => image.key.replace(/@\d+,\d+$/, ""); // of a window: the image that it is cut from

  // Every response for which some images are listed, layer by layer, strongest channels first.
  async function winsOf(job, examples) {
    const layers = await openEvery(job);
    return layers
      .map((layer) => ({ layer, wins: layer.channels.flatMap((channel) => channel.winners.filter((winner) => examples.has(winner.example)).map((winner) => ({ channel, winner }))) }))
      .filter(({ wins }) => wins.length)
      .map(({ layer, wins }) => ({ layer, wins: wins.sort((a, b) => a.winner.rank - b.winner.rank || a.channel.number - b.channel.number) }));
  }

  function originalOf(job, image) {
    const copy = make("button", { type: "button", textContent: "Copy the name" });
    copy.onclick = () => copyText(image.key, copy);
    const file = photograph(image);
    const original = job.originals ? link("original file", `${job.originals}/${file.split("/").map(encodeURIComponent).join("/")}`) : null;
    return make("p", { className: "steps" }, original, copy, make("span", { className: "quiet" }, `${image.height} × ${image.width} pixels, example ${image.example} of ${job.data}`));
  }

  async function showImage(job, root, [, wanted], { by }) {
    const image = (await openImages(job)).get(Number(wanted));
    if (!image) throw new Error(`No channel has the image ${wanted} among its winners.`);
    const windows = [...job.images.values()].filter((other) => photograph(other) === photograph(image) && other.file === image.file);
    const groups = await winsOf(job, new Set(windows.map((other) => other.example)));
    const all = groups.flatMap(({ wins }) => wins);
    const nameOf = ({ channel }) => `${channel.layer.name}/${channel.number}`;
    const frame = make("div", { className: "large" });
    const said = make("p", { className: "quiet", role: "status" });

    // Lay the box and the map of a channel over the image.
    async function show(win) {
      const map = win ? (await openDetails(win.channel)).maps[win.winner.rank] : null;
      frame.replaceChildren(whole(win ? job.images.get(win.winner.example) : image, image.key, win?.winner, map) || make("p", { className: "notice" }, "This job keeps no picture of it."));
      said.replaceChildren(...(win ? ["Box: what excites ", link(`${win.channel.layer.name}, channel ${win.channel.number}`, address(win.channel.layer.name, win.channel.number)), ` (rank ${win.winner.rank}, ${number(win.winner.unclipped ?? win.winner.score, 4)})${windows.length > 1 ? `, window ${win.winner.key.slice(photograph(image).length + 1)}` : ""}.`] : ["Choose a channel below to see where it looks."]));
    }

    const patches = new Map(); // a button to what draws its patch
    const parts = groups.map(({ layer, wins }) => {
      const items = wins.map((win) => {
        const words = `${win.winner.rank === 0 ? "strongest image" : `rank ${win.winner.rank}`} of channel ${win.channel.number}: ${number(win.winner.unclipped ?? win.winner.score, 4)}`;
        const button = make("button", { type: "button", className: "cell", title: words, ariaLabel: `Show where: ${words}` });
        patches.set(button, () => button.append(largePatch(win.channel, win.winner, 0.6) || `channel ${win.channel.number}`));
        button.onclick = () => {
          note({ by: nameOf(win) });
          show(win);
          scrollTo({ top: 0 });
        };
        return make("li", {}, button, make("p", {}, link(`channel ${win.channel.number}`, address(layer.name, win.channel.number)), make("br"), win.channel.name ? make("span", { className: "name" }, win.channel.name.concept, make("br")) : "", make("span", { className: "quiet" }, `rank ${win.winner.rank}, ${number(win.winner.unclipped ?? win.winner.score, 4)}`)));
      });
      return make("section", {}, make("h2", {}, link(layer.name, lastOf(layer.name)), make("span", { className: "quiet" }, ` ${count(new Set(wins.map(nameOf)).size, "channel")}`)), make("ol", { className: "listed" }, ...items));
    });
    const label = image.label === null ? null : make("p", {}, "labelled ", link(image.label, address("+label", image.label)));
    const explanations = job.views.includes("explanations") ? (await convscope.load("explanations", "data/+explanations.js")).find((row) => row.example === image.example) : null;
    root.append(heading(windows.length > 1 ? photograph(image) : image.key), by ? make("nav", { className: "steps", ariaLabel: "Back" }, link(`← ${by}`, lastOf(...splitName(by)), { rel: "up" })) : "", make("div", { className: "beside" }, make("div", {}, frame, said), make("div", {}, label, originalOf(job, image), explanations ? convscope.classification(explanations) : null, make("p", {}, `${windows.length > 1 ? `${count(windows.length, "window")} of it are a` : "A"}mong the strongest images of ${count(new Set(all.map(nameOf)).size, "channel")} in ${count(groups.length, "layer")}.`))));
    if (explanations) root.append(convscope.explanation(job, explanations));
    root.append(...parts);
    whenNear(patches.keys(), (button) => patches.get(button)());
    const chosen = all.filter((win) => nameOf(win) === by);
    await show(chosen.find((win) => win.winner.example === image.example) || chosen[0]);
  }

  // "layer/7" as its layer, which may have slashes itself, and its channel.
  function splitName(name) {
    const at = name.lastIndexOf("/");
    return [name.slice(0, at), name.slice(at + 1)];
  }

  function labelCounts(layers, images) {
    const labels = new Map();
    const of = (label) => {
      if (!labels.has(label)) labels.set(label, { label, selective: [], winners: 0, images: 0 });
      return labels.get(label);
    };
    for (const image of images.values()) if (image.label !== null) of(image.label).images += 1;
    for (const channel of layers.flatMap((layer) => layer.channels)) {
      if (channel.statistics.selective_label) of(channel.statistics.selective_label).selective.push(channel);
      for (const { label } of channel.winners) if (label !== null) of(label).winners += 1;
    }
    return labels;
  }

  const rowOf = (channel, caption) => make("li", {}, make("span", {}, link(`${channel.layer.name}, channel ${channel.number}`, address(channel.layer.name, channel.number)), make("span", { className: "quiet" }, ` ${[channel.name?.concept, caption].filter(Boolean).join(", ")}`)), strip(channel, 9));

  // Many rows of patches: so many at first, and the others when asked for.
  function rowsOf(list, captionOf, first = 60) {
    const place = make("ol", { className: "strips wide" });
    const add = (from, to) => place.append(...list.slice(from, to).map((channel) => rowOf(channel, captionOf(channel))));
    add(0, first);
    const more = make("button", { type: "button", textContent: `Show all ${list.length.toLocaleString("en")}` });
    more.onclick = () => {
      add(first, list.length);
      more.remove();
    };
    return [place, list.length > first ? more : null];
  }

  function thumbnails(images, most = 60) {
    const items = images.slice(0, most).map((image) => make("li", {}, link(whole(image, image.key) || image.key, address("+image", image.example), { className: "cell", title: image.key })));
    return make("div", {}, make("ol", { className: "listed" }, ...items), images.length > most ? make("p", { className: "quiet" }, `and ${(images.length - most).toLocaleString("en")} more`) : null);
  }

  async function showLabel(job, root, [, label]) {
    const layers = await openEvery(job);
    const images = [...job.images.values()].filter((image) => image.label === label);
    const { selective, winners } = labelCounts(layers, job.images).get(label) || { selective: [], winners: 0 };
    if (!selective.length && !winners) throw new Error(`No channel's winners have the label ${label}.`);
    selective.sort((a, b) => b.statistics.selectivity - a.statistics.selectivity);
    const lines = layers.map((layer) => {
      const of = selective.filter((channel) => channel.layer === layer);
      const pure = layer.channels.filter((channel) => channel.statistics.top_label === label && channel.statistics.label_purity > 0.5);
      return make("tr", {}, make("th", { scope: "row" }, link(layer.name, address(layer.name, { label }))), make("td", {}, of.length.toLocaleString("en")), make("td", {}, of.length ? number(of[0].statistics.selectivity) : "–"), make("td", {}, pure.length.toLocaleString("en")));
    });
    const head = make("tr", {}, ...["layer", "channels that prefer it", "highest selectivity", "channels with most winners of it"].map((text) => make("th", { scope: "col" }, text)));
    root.append(
      heading(label),
      make("nav", { className: "steps", ariaLabel: "Up" }, link("all labels", lastOf("+labels"), { rel: "up" })),
      make("p", {}, `${count(selective.length, "channel prefers", "channels prefer")} this label to all others; it has ${count(winners, "winner")}.`),
      make("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: "Layers" }, make("table", { className: "numbers" }, make("thead", {}, head), make("tbody", {}, ...lines))),
    );
    if (selective.length) root.append(make("h2", {}, "Channels by ", term("selectivity")), ...rowsOf(selective, (channel) => number(channel.statistics.selectivity)).filter(Boolean));
    if (images.length) root.append(make("h2", {}, "Its images among the winners"), thumbnails(images));
  }

  async function showLabels(job, root) {
    const layers = await openEvery(job);
    const labels = [...labelCounts(layers, job.images).values()].sort((a, b) => b.selective.length - a.selective.length || b.winners - a.winners);
    const lines = labels.map(({ label, selective, winners, images }) => make("tr", {}, make("th", { scope: "row" }, link(label, address("+label", label))), ...[selective.length, winners, images].map((value) => make("td", {}, value.toLocaleString("en")))));
    const head = make("tr", {}, ...["label", "channels that prefer it", "winners", "images among them"].map((text) => make("th", { scope: "col" }, text)));
    root.append(heading("Labels"), make("p", { className: "quiet" }, labels.length ? `Which channels answer to which of ${count(labels.length, "label")}.` : "The data set has no labels."), make("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: "Labels" }, make("table", { className: "numbers" }, make("thead", {}, head), make("tbody", {}, ...lines))));
  }

  // ---- one search over everything

  // What a text finds: channels by number or as layer/number, layers, labels and images by name.
  async function search(job, text) {
    const layers = await openEvery(job);
    const wanted = text.toLowerCase();
    const [, ofLayer, digits] = text.match(/^(?:(.*)[/ ,]+)?(?:channel )?(\d+)$/) || [];
    const fits = (layer) => !ofLayer || layer.name.toLowerCase().includes(ofLayer.replace(/[, ]+(channel)?$/, "").toLowerCase());
    const channels = digits === undefined ? [] : layers.filter(fits).map((layer) => layer.numbers.get(Number(digits))).filter(Boolean);
    const named = layers.flatMap((layer) => layer.channels).filter((channel) => channel.name?.concept.toLowerCase().includes(wanted));
    const has = (value) => value !== null && value.toLowerCase().includes(wanted);
    const images = [...job.images.values()].filter((image) => has(image.key) || has(image.label));
    return {
      channels: [...new Set([...channels, ...named.sort((a, b) => a.name.chance - b.name.chance)])],
      layers: layers.filter((layer) => has(layer.name)),
      labels: [...labelCounts(layers, job.images).keys()].filter(has).sort(),
      images,
      winning: layers.flatMap((layer) => layer.channels).map((channel) => [channel.winners.filter((winner) => has(winner.key) || has(winner.label)).length, channel]).filter(([times]) => times > 1).sort((a, b) => b[0] - a[0]),
    };
  }

  async function showFind(job, root, parts, { text = "" }) {
    const field = document.getElementById("find");
    field.value = text;
    const place = make("div");
    const status = make("p", { className: "quiet", role: "status" });
    let latest = 0;

    async function again(query) {
      const turn = (latest += 1);
      if (!query) {
        status.textContent = "Name a channel (500, or layer/500), a layer, a label, or a part of a file's name.";
        return place.replaceChildren();
      }
      const { channels, layers, labels, images, winning } = await search(job, query);
      if (turn !== latest) return; // someone typed on
      const found = [count(channels.length, "channel"), count(layers.length, "layer"), count(labels.length, "label"), count(images.length, "image")];
      status.textContent = `“${query}”: ${found.filter((words) => !words.startsWith("0 ")).join(", ") || "nothing"}`;
      place.replaceChildren(
        ...[
          ...(channels.length ? [make("h2", {}, "Channels"), ...rowsOf(channels, () => "")] : []),
          ...(layers.length ? [make("h2", {}, "Layers"), make("ul", {}, ...layers.map((layer) => make("li", {}, link(layer.name, address(layer.name)), ` ${count(layer.count, "channel")}`)))] : []),
          ...(labels.length ? [make("h2", {}, "Labels"), make("ul", { className: "inline" }, ...labels.slice(0, 100).map((label) => make("li", {}, link(label, address("+label", label)))))] : []),
          ...(images.length ? [make("h2", {}, "Images"), thumbnails(images)] : []),
          ...(winning.length ? [make("h2", {}, "Channels with most of them among their winners"), ...rowsOf(winning.slice(0, 30).map(([, channel]) => channel), (channel) => `${winning.find(([, other]) => other === channel)[0]} of ${channel.winners.length}`)] : []),
        ].filter(Boolean),
      );
    }

    field.oninput = () => {
      if (convscope.here().parts[0] !== "+find") return;
      note({ text: field.value.trim(), y: null });
      again(field.value.trim());
    };
    root.append(heading("Find"), status, place);
    await again(text);
  }

  Object.assign(convscope, { showImage, showLabel, showLabels, showFind, winsOf });
})();
