// The views of directions and of what is made with them.
"use strict";

(() => {
  const { make, heading, link, address, number, percent, count, openLayer, strip, term } = convscope;
  const read = (view) => convscope.load(view, `data/+${view}.js`);

  const TITLES = { pca: "principal components", ica: "independent components", nmf: "non-negative components", kmeans: "centroids", topk: "atoms of a TopK autoencoder", jumprelu: "atoms of a JumpReLU autoencoder", cav: "concept vectors", split: "channels taken apart" };

  // The channels of the base that a direction is made of most, with their patches where the job has them.
  async function madeOf(job, set, direction) {
    const opened = job.layers.some((layer) => layer.name === set.base) ? await openLayer(job, set.base) : null;
    const items = direction.strongest_channels.map((channel, at) => {
      const other = opened?.numbers.get(channel);
      const weight = make("span", { className: "quiet" }, ` ${number(direction.channel_weights[at])}`);
      return make("li", {}, make("span", {}, other ? link(`channel ${channel}`, address(set.base, channel)) : `channel ${channel}`, weight), other ? strip(other, 5) : null);
    });
    return make("ol", { className: "strips" }, ...items);
  }

  async function showDirections(job, root, [, name]) {
    const sets = await read("directions");
    const set = sets.find((other) => other.layer === name);
    if (!set) {
      const lines = sets.map((other) => make("tr", {}, make("th", { scope: "row" }, link(other.layer, address("+directions", other.layer))), make("td", {}, TITLES[other.method] ?? other.method), make("td", {}, count(other.directions.length, "direction")), make("td", {}, percent(other.explained)), make("td", {}, String(other.directions.filter((direction) => direction.dead).length)), make("td", {}, number(other.vectors))));
      const head = ["set", "what they are", "how many", "explained", "dead", "vectors"];
      root.append(
        heading("Directions"),
        make("p", { className: "quiet" }, "Directions in the space of a layer's channels. A later job takes each set as a layer: name this job's folder in model.directions."),
        make("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: "Directions" }, make("table", { className: "numbers" }, make("thead", {}, make("tr", {}, ...head.map((text) => make("th", { scope: "col" }, term(text))))), make("tbody", {}, ...lines))),
      );
      return;
    }
    const sections = [];
    for (const direction of set.directions) {
      const title = direction.name === null ? `Direction ${direction.channel}` : `${direction.channel}: ${direction.name}`;
      const words = direction.dead ? "never responds in the sample" : `responds to ${percent(direction.share_active)} of the sample, by ${number(direction.strength)} (root mean square)`;
      sections.push(make("section", {}, make("h2", {}, title), make("p", {}, words), await madeOf(job, set, direction)));
    }
    root.append(
      heading(set.layer),
      make("nav", { className: "steps", ariaLabel: "Directions" }, link("all sets", address("+directions"), { rel: "up" })),
      make("p", {}, `${count(set.directions.length, "direction")} of ${set.base}, ${TITLES[set.method] ?? set.method}, which keep ${percent(set.explained)} of the variance of ${number(set.vectors)} vectors. Below each, the channels with the largest weights in it.`),
      ...sections,
    );
  }

  Object.assign(convscope.VIEWS, { "+directions": showDirections });
})();
