// The views of what other stages made: explanations, feature maps, patterns, kernels, fields, checks, dreams.
"use strict";

(() => {
  const { openEvery, make, heading, link, address, number, percent, count, whenNear, term, whole, strip, figure, curve, curves } = convscope;
  const read = (view) => convscope.load(view, `data/+${view}.js`);

  // ---- explanations

  const classOf = (row) => row.target && row.target !== row.name ? row.target : row.name === null || row.name === String(row.class) ? `class ${row.class}` : row.name;

  // What the network says of an image: its classes, without those that it all but excludes.
  function classification(image) {
    const likely = image.top.filter((row, at) => at === 0 || row.probability === null || row.probability >= 0.01);
    const lines = likely.map((row) => make("tr", {}, make("th", { scope: "row" }, classOf(row)), make("td", {}, row.says)));
    return lines.length ? make("table", { className: "narrow" }, make("caption", {}, "The network says"), make("tbody", {}, ...lines)) : null;
  }

  // A row for each explained class and layer, a column for each method.
  function explanation(job, image) {
    const rows = image.groups.map((group) => {
      const stored = job.images?.get(image.example);
      const original = stored?.file ? make("figure", {}, whole(stored, image.key), make("figcaption", { className: "quiet" }, "the image")) : null;
      const maps = group.maps.map((map) => figure(`../${map.picture}`, map.rule ? `${map.method} (${map.rule})` : map.method));
      const title = `${classOf(group)}, ${group.says}`;
      return make("section", {}, make("h3", {}, `Why ${title}`, group.layer ? make("span", { className: "quiet" }, ` at ${group.layer}`) : ""), make("div", { className: "maps-row" }, original, ...maps));
    });
    return make("div", {}, ...rows);
  }

  async function showExplanations(job, root) {
    const images = await read("explanations");
    await convscope.openImages(job);
    const articles = images.map((image) => make("article", { className: "explained" }, make("h2", {}, job.images.has(image.example) ? link(image.key, address("+image", image.example)) : image.key)));
    whenNear(articles, (article) => {
      const image = images[articles.indexOf(article)];
      if (image.label !== null) article.append(make("p", { className: "quiet" }, `labelled ${image.label}`));
      article.append(...[classification(image), explanation(job, image)].filter(Boolean));
    });
    root.append(
      heading("Explanations"),
      make("p", {}, `${count(images.length, "image")}: what the network says of each, and where the evidence for it lies. Where the job explained more images than it drew, convscope picture draws any of them.`),
      make("p", { className: "quiet" }, make("span", { className: "scale" }), "Maps over the image run from violet (no evidence) to yellow (the map's own maximum, written beside its scale), so the colours of two maps do not compare. Maps of pixels are grey where a pixel does not count."),
      ...articles,
    );
  }

  // ---- checks of explanations

  async function showChecks(job, root) {
    const { randomisation, curves: measured } = (await read("checks"))[0];
    root.append(heading("Checks of the explanations"));
    if (randomisation.length) {
      root.append(
        make("h2", {}, term("randomisation", "Random weights")),
        make("p", { className: "quiet" }, `Layers are given random weights one by one, from the output down (${count(randomisation[0].x.at(-1), "layer")}). A map that shows what the network learned must change: a curve that stays near 1 is a map of the image alone.`),
        curves(randomisation, "Rank correlation with the original map by number of randomised layers", ["random layers", "rank correlation"]) || "",
      );
    }
    for (const [kind, text] of Object.entries({ deletion: "The most important pixels are deleted first: the faster the answer falls, the better the map.", insertion: "The most important pixels are inserted first: the faster the answer rises, the better the map." })) {
      const list = measured.filter((row) => row.kind === kind);
      if (list.length) root.append(make("h2", {}, term(kind, kind[0].toUpperCase() + kind.slice(1))), make("p", { className: "quiet" }, text), curves(list, `Mean answer by share of pixels, ${kind}`, ["share of the pixels", "answer"]) || "");
    }
  }

  // ---- what carries each class

  async function showEvidence(job, root) {
    const targets = await read("evidence");
    const mean = (row, caption) => make("figure", {}, make("img", { loading: "lazy", alt: caption, src: row.picture }), make("figcaption", { className: "quiet" }, caption));
    const at = (row) => (row.layer ? `${row.method} at ${row.layer}` : row.method);
    const articles = targets.map((target) => make("article", { className: "explained" }, make("h2", {}, classOf({ name: target.target, ...target }))));
    whenNear(articles, (article) => {
      const target = targets[articles.indexOf(article)];
      for (const [layer, channels] of Object.entries(target.layers)) {
        const lines = channels.map((row) => make("tr", {}, make("th", { scope: "row" }, job.layers?.some((own) => own.name === layer) ? link(`channel ${row.channel}`, address(layer, row.channel)) : `channel ${row.channel}`), make("td", {}, number(row.mean)), make("td", {}, percent(row.share)), make("td", {}, percent(row.share_positive))));
        const head = make("tr", {}, ...["", "mean evidence", "of the class", "of the images"].map((text) => make("th", { scope: "col" }, text)));
        article.append(make("table", { className: "narrow" }, make("caption", {}, layer), make("thead", {}, head), make("tbody", {}, ...lines)));
      }
      const places = target.places.map((row) => mean(row, `${at(row)}: ${count(row.images, "image")}, ${percent(row.border)} at the border (evenly: ${percent(row.border_if_even)})`));
      const clusters = target.clusters.map((row) => mean(row, `${row.suspicious ? "Look here. " : ""}${at(row)}, cluster ${row.cluster}: ${count(row.images, "image")}, such as ${row.keys.slice(0, 3).join(", ")}`));
      if (places.length) article.append(make("h3", {}, "Where the evidence lies on average"), make("div", { className: "maps-row" }, ...places));
      if (clusters.length) article.append(make("h3", {}, "Clusters of its maps"), make("div", { className: "maps-row" }, ...clusters));
    });
    root.append(heading("What carries each class"), make("p", {}, `${count(targets.length, "class", "classes")}: the channels that add most to its score, and where in the image the evidence lies. A cluster with half of its evidence in the same tenth of every image, away from the middle, may be a watermark or a border.`), ...articles);
  }

  // ---- feature maps, kernels, fields, patterns, dreams

  async function showMaps(job, root) {
    const images = await read("maps");
    const parts = images.flatMap((image) => [
      make("h2", {}, image.key),
      ...image.layers.map((row) => {
        const dead = row.dead ? `, ${row.dead} of them the same everywhere` : "";
        return make("div", { className: "together maps" }, make("h3", {}, link(row.layer, address(row.layer))), figure(`../${row.picture}`, `${image.key} at ${row.layer}: ${count(row.channels, "channel")}${dead}`));
      }),
    ]);
    root.append(heading("Feature maps"), make("p", { className: "quiet" }, `What every channel of a layer makes of an image, for ${count(images.length, "image")}.`), ...parts);
  }

  async function showKernels(job, root) {
    const kernels = await read("kernels");
    const parts = kernels.map((row) => {
      const gives = row.gives.filter((name) => job.layers.some((layer) => layer.name === name));
      const caption = `${row.layer}, ${row.part}: ${count(row.filters, "filter")} of ${row.height} × ${row.width}, ${count(row.inputs, "input")} each`;
      return make("div", { className: "together" }, make("h2", {}, row.layer), gives.length ? make("p", { className: "quiet" }, "gives the channels of ", ...gives.flatMap((name, at) => [at ? ", " : "", link(name, address(name))])) : "", figure(`../${row.picture}`, caption, { className: "kernel" }));
    });
    root.append(heading("Kernels"), make("p", { className: "quiet" }, "The learned weights of each convolution. Grey is zero; what the other shades mean stands above each picture."), ...parts);
  }

  async function showPatterns(job, root) {
    const layers = await openEvery(job);
    root.append(heading("Patterns"), make("p", { className: "quiet" }, "Pictures made from noise to excite a channel, beside the patches that excite it most."));
    for (const layer of layers) {
      const channels = layer.channels.filter((channel) => channel.patterns.length);
      if (!channels.length) continue;
      const cards = new Map(channels.map((channel) => [make("article", { className: "card" }, make("h3", { className: "card-title" }, link(`channel ${channel.number}`, address(layer.name, channel.number)))), channel]));
      whenNear(cards.keys(), (card) => {
        const channel = cards.get(card);
        card.append(...channel.patterns.map((row) => figure(row.file, row.sign, { className: "pattern" })), strip(channel, 9));
      });
      root.append(make("h2", {}, link(layer.name, address(layer.name, { show: "both" }))), make("div", { className: "channels both" }, ...cards.keys()));
    }
  }

  async function showFields(job, root) {
    const rows = await read("fields");
    const lines = rows.map((row) => {
      const cells = [`${row.height} × ${row.width}`, row.global ? "yes" : "no", `${number(row.stride_y)} × ${number(row.stride_x)}`, `${row.map_height} × ${row.map_width}`, row.effective ? `${number(row.effective[0])} × ${number(row.effective[1])}` : "–"];
      return make("tr", {}, make("th", { scope: "row" }, link(row.layer, address(row.layer))), ...cells.map((text) => make("td", {}, text)));
    });
    const head = ["layer", "field", "whole image", "stride", "map", "effective field"];
    const pictures = rows.filter((row) => row.picture).map((row) => figure(`../${row.picture}`, `receptive field of ${row.layer}`));
    root.append(
      heading("Receptive fields"),
      make("p", { className: "quiet" }, "In pixels of the network's input: what a unit can see at most, and, where it was measured, what counts of it (the median over the winners)."),
      make("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: "Fields" }, make("table", { className: "numbers" }, make("thead", {}, make("tr", {}, ...head.map((text) => make("th", { scope: "col" }, term(text))))), make("tbody", {}, ...lines))),
      make("div", { className: "pictures" }, ...pictures),
    );
  }

  async function showDreams(job, root) {
    const dreams = await read("dreams");
    const parts = dreams.map((dream) => {
      const caption = `${dream.title}: ${dream.objective}; reaches ${number(dream.reached)}`;
      return make("div", {}, dream.picture ? figure(`../${dream.picture}`, caption) : make("p", {}, caption), curve(dream.losses, "Loss by step"));
    });
    root.append(heading("Dreams"), make("div", { className: "pictures large" }, ...parts));
  }

  const VIEWS = { "+explanations": showExplanations, "+checks": showChecks, "+evidence": showEvidence, "+maps": showMaps, "+kernels": showKernels, "+patterns": showPatterns, "+fields": showFields, "+dreams": showDreams, "+glossary": convscope.showGlossary };
  Object.assign(convscope, { VIEWS, classification, explanation });
})();
