// The views of directions and of what is made with them.
"use strict";

(() => {
  const { make, heading, link, address, number, percent, count, openLayer, strip, term } = convscope;
  const read = (view) => convscope.load(view, `data/+${view}.js`);

  const TITLES = { pca: "principal components", ica: "independent components", nmf: "non-negative components", kmeans: "centroids", lda: "discriminants of clusters", topk: "atoms of a TopK autoencoder", jumprelu: "atoms of a JumpReLU autoencoder", cav: "a concept vector", split: "channels taken apart" };

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

  // The winners of the channel that is taken apart which lie in this direction's cluster.
  async function clusterOf(job, set, direction) {
    if (direction.split_channel === null || !job.layers.some((layer) => layer.name === set.base)) return "";
    const channel = (await openLayer(job, set.base)).numbers.get(direction.split_channel);
    return channel ? strip({ ...channel, winners: channel.winners.filter((winner) => direction.split_ranks.includes(winner.rank)) }) : "";
  }

  // How well a concept's vector tells its images from others, and which classes depend on it.
  function testsOf(set) {
    const { vector, tests } = set;
    const head = ["class", "images", "score", "of random sets", "p", "chance", ""];
    const cells = (row) => [row.logits === null ? row.target : `${row.logits}: ${row.target}`, number(row.images), row.score.toFixed(2), row.random_score.toFixed(2), row.p_corrected.toPrecision(2), row.chance.toFixed(2), row.significant ? "significant" : ""];
    const lines = tests.map((row) => make("tr", {}, ...cells(row).map((text, at) => make(at ? "td" : "th", at ? {} : { scope: "row" }, text))));
    const table = make("table", { className: "numbers" }, make("thead", {}, make("tr", {}, ...head.map((text) => make("th", { scope: "col" }, text)))), make("tbody", {}, ...lines));
    return [
      make("p", {}, `From ${vector.images} images of ${vector.source} and as many of ${vector.against}, ${vector.runs} times: ${percent(vector.accuracy)} of held-out images lie on their own side (random sets: ${percent(vector.random_accuracy)}), and two runs' vectors have a cosine of ${vector.agreement.toFixed(2)} in the mean.`),
      ...(tests.length ? [make("h2", {}, "Whether classes depend on it"), make("p", {}, "The score is the share of a class's images whose evidence rises along the vector. p is corrected for all tests of the job; chance is the share of random sets with a difference as large."), make("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: "Tests" }, table)] : []),
    ];
  }

  async function showDirections(job, root, [, name]) {
    const sets = await read("directions");
    const set = sets.find((other) => other.layer === name);
    if (!set) {
      const lines = sets.map((other) => make("tr", {}, make("th", { scope: "row" }, link(other.layer, address("+directions", other.layer))), make("td", {}, TITLES[other.method] ?? other.method), make("td", {}, count(other.directions.length, "direction")), make("td", {}, other.explained === null ? "–" : percent(other.explained)), make("td", {}, String(other.directions.filter((direction) => direction.dead).length)), make("td", {}, number(other.vectors))));
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
      sections.push(make("section", {}, make("h2", {}, title), make("p", {}, words), await clusterOf(job, set, direction), await madeOf(job, set, direction)));
    }
    root.append(
      heading(set.layer),
      make("nav", { className: "steps", ariaLabel: "Directions" }, link("all sets", address("+directions"), { rel: "up" })),
      make("p", {}, `${count(set.directions.length, "direction")} of ${set.base}, ${TITLES[set.method] ?? set.method}${set.explained === null ? "" : `, which keep ${percent(set.explained)} of the variance of ${number(set.vectors)} vectors`}. Below each, the channels with the largest weights in it.`),
      ...(set.vector ? testsOf(set) : []),
      ...sections,
    );
  }

  // ---- atlases

  const HUES = [[86, 180, 233], [230, 159, 0], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0], [204, 121, 167]];
  const GREY = [150, 150, 150];

  // What may stand in a cell: its most frequent label, or the name, or the number, of the channel that stands out there.
  const WORDS = {
    labels: (cell) => cell[3],
    names: (cell) => cell[5],
    channels: (cell) => (typeof cell[4] === "number" ? cell[5] ?? `channel ${cell[4]}` : null),
  };

  // Points as [x, y, label] of uint16, see pipeline/report/atlas.py.
  function unpacked(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return new Uint16Array(bytes.buffer);
  }

  // Where the map lies on the canvas: its left and top, and the length of its side.
  function atlasCanvas(atlas, says) {
    const points = unpacked(atlas.points);
    const size = Math.min(900, Math.max(320, document.documentElement.clientWidth - 48));
    // Two canvases: from disk, a browser lets nobody read one on which a picture was drawn, as drawing points by pixels does.
    const icons = make("canvas", { width: size, height: size });
    const canvas = make("canvas", { width: size, height: size, tabIndex: 0, role: "img", ariaLabel: `Atlas of ${atlas.layer}: ${count(points.length / 3, "point")}. Plus and minus zoom, arrows pan.` });
    const [below, context] = [icons, canvas].map((layer) => layer.getContext("2d"));
    const view = { x: 0, y: 0, side: size };
    const shown = { points: true, label: "", words: "" };
    const pictures = new Map();
    let waiting = false;

    // The coarsest grid whose cells are large enough to be looked at.
    const gridOf = () => atlas.grids.filter((grid) => grid.picture).findLast((grid, at) => at === 0 || view.side / grid.grid >= 48);

    function pictureOf(grid) {
      if (!pictures.has(grid.grid)) {
        const image = new Image();
        image.onload = draw;
        image.src = `../${grid.picture.split("/").map(encodeURIComponent).join("/")}?${convscope.version}`;
        pictures.set(grid.grid, image);
      }
      return pictures.get(grid.grid);
    }

    function paint() {
      waiting = false;
      below.fillStyle = "#16181d";
      below.fillRect(0, 0, size, size);
      const grid = gridOf();
      const image = grid && pictureOf(grid);
      if (image?.complete && image.naturalWidth) below.drawImage(image, view.x, view.y, view.side, view.side);
      // Pixel by pixel: a hundred thousand calls for rectangles would not be smooth.
      const pixels = context.createImageData(size, size);
      if (shown.points) {
        const data = new Uint32Array(pixels.data.buffer);
        const colours = atlas.labels.map((_, at) => HUES[at % HUES.length]);
        const wanted = atlas.labels.indexOf(shown.label);
        const thick = view.side > 3 * size ? 3 : 2;
        for (let at = 0; at < points.length; at += 3) {
          const label = points[at + 2];
          if (wanted >= 0 && label !== wanted) continue;
          const x = Math.round(view.x + (points[at] / 65535) * view.side);
          const y = Math.round(view.y + (points[at + 1] / 65535) * view.side);
          if (x < 0 || y < 0 || x > size - thick || y > size - thick) continue;
          const [red, green, blue] = colours[label] ?? GREY;
          const colour = (255 << 24) | (blue << 16) | (green << 8) | red;
          for (let row = 0; row < thick; row++) for (let col = 0; col < thick; col++) data[(y + row) * size + x + col] = colour;
        }
      }
      context.putImageData(pixels, 0, 0);
      if (WORDS[shown.words]) write(WORDS[shown.words]);
    }

    // Words in the cells of the grid that is looked at, each cut to its cell.
    function write(wordsOf) {
      const { grid, cells } = gridOf() ?? atlas.grids[0];
      const side = view.side / grid;
      Object.assign(context, { font: "12px sans-serif", textAlign: "center", textBaseline: "middle", lineWidth: 3, strokeStyle: "#000", fillStyle: "#fff" });
      for (const cell of cells) {
        const [x, y] = [view.x + (cell[1] + 0.5) * side, view.y + (cell[0] + 0.5) * side];
        let text = wordsOf(cell) ?? "";
        if (!text || x < 0 || y < 0 || x > size || y > size) continue;
        if (context.measureText(text).width > side) {
          while (text && context.measureText(`${text}…`).width > side) text = text.slice(0, -1);
          text = `${text.trimEnd()}…`;
        }
        context.strokeText(text, x, y);
        context.fillText(text, x, y);
      }
    }

    function draw() {
      if (!waiting) requestAnimationFrame(paint);
      waiting = true;
    }

    function zoom(factor, x, y) {
      const side = Math.min(Math.max(view.side * factor, size / 2), 64 * size);
      view.x = x - ((x - view.x) * side) / view.side;
      view.y = y - ((y - view.y) * side) / view.side;
      view.side = side;
      draw();
    }

    // The cell at a place of the canvas, in words.
    function cellAt(x, y) {
      const grid = gridOf() ?? atlas.grids.at(-1);
      const row = Math.floor(((y - view.y) / view.side) * grid.grid);
      const col = Math.floor(((x - view.x) / view.side) * grid.grid);
      const cell = grid.cells.find((other) => other[0] === row && other[1] === col);
      if (!cell) return "\u00a0";
      const channel = typeof cell[4] === "number" ? `; channel ${cell[4]}${cell[5] ? ` (${cell[5]})` : ""} stands out` : "";
      return `${count(cell[2], "vector")}${cell[3] === null ? "" : `, most often of ${cell[3]}`}${channel}`;
    }

    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      zoom(event.deltaY < 0 ? 1.25 : 0.8, event.offsetX, event.offsetY);
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
    canvas.addEventListener("pointermove", (event) => {
      if (event.buttons) {
        view.x += event.movementX;
        view.y += event.movementY;
        draw();
      }
      says.textContent = cellAt(event.offsetX, event.offsetY);
    });
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] }[event.key];
      const factor = { "+": 1.25, "-": 0.8 }[event.key];
      if (!step && !factor) return;
      event.preventDefault();
      event.stopPropagation(); // arrows would leave the view
      if (step) [view.x, view.y] = [view.x + step[0], view.y + step[1]];
      if (factor) zoom(factor, size / 2, size / 2);
      draw();
    });
    draw();
    return { canvas: make("div", { className: "atlas" }, icons, canvas), shown, draw };
  }

  async function showAtlas(job, root, [, name]) {
    const list = await read("atlas");
    const atlas = list.find((other) => other.layer === name) ?? list[0];
    const says = make("p", { className: "quiet", ariaLive: "polite" }, "\u00a0");
    const { canvas, shown, draw } = atlasCanvas(atlas, says);
    const points = make("input", { type: "checkbox", checked: true });
    points.onchange = () => draw(Object.assign(shown, { points: points.checked }));
    const label = make("select", { ariaLabel: "Label" }, make("option", { value: "" }, "all labels"), ...atlas.labels.map((other) => make("option", { value: other }, other)));
    label.onchange = () => draw(Object.assign(shown, { label: label.value }));
    const has = (at) => atlas.grids.some((grid) => grid.cells.some((cell) => typeof cell[at] === "number" || cell[at]));
    const kinds = [["", "no words"], ["labels", "labels", 3], ["names", "names of channels", 5], ["channels", "channels", 4]].filter(([, , at]) => !at || has(at));
    const words = make("select", { ariaLabel: "Words in the cells" }, ...kinds.map(([key, text]) => make("option", { value: key }, text)));
    words.onchange = () => draw(Object.assign(shown, { words: words.value }));
    const others = list.length > 1 ? make("p", { className: "steps" }, ...list.map((other) => link(other.layer, address("+atlas", other.layer)))) : "";
    root.append(
      heading(`Atlas of ${atlas.layer}`),
      others,
      make("p", { className: "quiet" }, "Vectors that point in similar directions lie together. The wheel zooms, dragging pans; finer icons appear as you zoom in. An icon is what raises the direction to its cell's mean."),
      make("p", { className: "steps" }, make("label", {}, points, " points"), atlas.labels.length ? label : "", kinds.length > 1 ? make("label", {}, "In the cells ", words) : ""),
      canvas,
      says,
    );
  }

  Object.assign(convscope.VIEWS, { "+directions": showDirections, "+atlas": showAtlas });
})();
