// What the pages draw: patches, whole images, figures and plots.
"use strict";

(() => {
  const { make, link, address, number, version } = convscope;
  const EDGES = ["y1", "x1", "y2", "x2"];
  const urlOf = (file) => `${file.split("/").map((part) => (part === ".." ? part : encodeURIComponent(part))).join("/")}?${version}`;

  // A part of a picture, as wide as its place: y, x, height and width in the picture's pixels, which has `size` of them.
  function part(file, size, [y, x, height, width], words) {
    const patch = make("span", { className: "patch" });
    if (words) Object.assign(patch, { role: "img", ariaLabel: words, title: words });
    const share = (from, length, all) => (all > length ? (100 * from) / (all - length) : 0);
    patch.style.aspectRatio = `${width} / ${height}`;
    if (height > width) patch.classList.add("tall");
    patch.style.backgroundImage = `url("${urlOf(file)}")`;
    patch.style.backgroundSize = `${(100 * size[1]) / width}% ${(100 * size[0]) / height}%`;
    patch.style.backgroundPosition = `${share(x, width, size[1])}% ${share(y, height, size[0])}%`;
    return patch;
  }

  // One patch, cut from its layer's mosaic.
  function patch(layer, number, rank, words) {
    const { tile, rows: at, sheets } = layer;
    if (!tile || !at[number]) return null;
    const [sheet, y, x] = at[number];
    const [file, ...size] = sheets[sheet];
    const line = Math.floor(rank / tile.per_line);
    return part(file, size, [y + line * tile.step_y, x + (rank % tile.per_line) * tile.step_x, tile.height, tile.width], words);
  }

  // A patch from the whole image's thumbnail, where that has more of its pixels than the mosaic, or `share` as many; else from the
  // mosaic, of which the browser must decode a page for it.
  function largePatch(channel, winner, share = 1.2) {
    const { file, height, width } = channel.job.images.get(winner.example) || {};
    const { tile } = channel.layer;
    if (!file || !tile) return patchOf(channel, winner);
    const { y1, x1, y2, x2 } = winner;
    const pixels = (Math.max(y2 - y1, x2 - x1) * Math.min(256, Math.max(height, width))) / Math.max(height, width);
    if (pixels <= share * Math.max(tile.height, tile.width)) return patchOf(channel, winner);
    return part(file, [height, width], [y1, x1, y2 - y1, x2 - x1], words(winner));
  }

  // A whole image, with a box (edges in its own pixels) and a channel's map as light where they are given.
  function whole(image, words, box, map) {
    if (!image?.file) return null;
    const { file, height, width } = image;
    const frame = make("span", { className: height > width ? "whole tall" : "whole" });
    frame.style.aspectRatio = `${width} / ${height}`;
    frame.append(make("img", { loading: "lazy", alt: words, src: urlOf(file) }));
    if (map && typeof image.y1 === "number") {
      const light = make("img", { className: "light", alt: "", src: `data:image/png;base64,${map}` });
      lay(light, image, height, width);
      frame.append(light);
    }
    if (box) {
      const mark = make("span", { className: "box" });
      lay(mark, box, height, width);
      frame.append(mark);
    }
    return frame;
  }

  function lay(element, { y1, x1, y2, x2 }, height, width) {
    const edges = { left: x1 / width, top: y1 / height, width: (x2 - x1) / width, height: (y2 - y1) / height };
    for (const [side, share] of Object.entries(edges)) element.style[side] = `${100 * share}%`;
  }

  function words(winner) {
    const label = winner.label === null ? "" : `, ${winner.label}`;
    return `rank ${winner.rank}: ${number(winner.unclipped ?? winner.score, 4)}${label}, ${winner.key}`;
  }

  const patchOf = (channel, winner) => patch(channel.layer, channel.number, winner.rank, words(winner));
  const wholeOf = (channel, winner, map) => whole(channel.job.images.get(winner.example), words(winner), winner, map);
  const imageAddress = (channel, winner) => address("+image", winner.example, { by: `${channel.layer.name}/${channel.number}` });

  // A winner as its crop or, where wanted, as its whole image; as whatever there is of the two; else in words.
  function picture(channel, winner, wanted) {
    const ways = wanted ? [wholeOf, patchOf] : [patchOf, wholeOf];
    return ways[0](channel, winner) || ways[1](channel, winner) || make("span", { className: "quiet" }, words(winner));
  }

  // The winners of a channel in a row, each the way to its image where the page has a view of images; by mouse alone: the
  // channel's own page has them by keyboard.
  function strip(channel, most = 9, wanted = false) {
    const framed = (shown, winner) => (convscope.showImage ? link(shown, imageAddress(channel, winner), { className: "cell", tabIndex: -1 }) : make("span", { className: "cell" }, shown));
    const items = channel.winners.slice(0, most).map((winner) => make("li", {}, framed(picture(channel, winner, wanted), winner)));
    return make("ul", { className: "patches" }, ...items);
  }

  // A picture with words below it, which are its alternative text too; src is below the page's folder.
  function figure(src, caption, properties = {}) {
    const image = make("img", { loading: "lazy", alt: caption, src: urlOf(src), ...properties });
    return make("figure", {}, link(image, urlOf(src)), make("figcaption", { className: "quiet" }, caption));
  }

  function draw(tag, attributes, text) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    return element;
  }

  // Round numbers from low to high, about `most` of them.
  function ticks(low, high, most = 5) {
    const rough = (high - low) / most || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
    const first = Math.ceil(low / step - 1e-9);
    return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(10)));
  }

  // A plot of 360 x 190 with axes: x and y from [low, high] to its pixels, and the drawing to add to.
  function plot(words, [left, right], [low, high], [below, beside]) {
    const svg = draw("svg", { class: "plot", viewBox: "0 0 360 190", role: "img", "aria-label": words });
    const x = (value) => 44 + (306 * (value - left)) / (right - left || 1);
    const y = (value) => 150 - (136 * (value - low)) / (high - low || 1);
    for (const value of ticks(left, right)) {
      svg.append(draw("line", { x1: x(value), x2: x(value), y1: 150, y2: 154 }), draw("text", { x: x(value), y: 166, "text-anchor": "middle" }, number(value)));
    }
    for (const value of ticks(low, high, 4)) {
      svg.append(draw("line", { x1: 44, x2: 350, y1: y(value), y2: y(value), class: "rule" }), draw("text", { x: 40, y: y(value) + 4, "text-anchor": "end" }, number(value)));
    }
    svg.append(draw("line", { x1: 44, x2: 350, y1: 150, y2: 150 }), draw("text", { x: 350, y: 184, "text-anchor": "end" }, below), draw("text", { x: 4, y: 10 }, beside));
    return { svg, x, y };
  }

  // Curves over steps or shares: [{name, x: […], y: […]}], each with a name at its end where there are several.
  function curves(list, words, axes) {
    const known = list.map((curve) => ({ ...curve, points: curve.y.map((value, i) => [curve.x[i], value]).filter(([, value]) => typeof value === "number") }));
    const all = known.flatMap((curve) => curve.points);
    if (all.length < 2) return null;
    const range = (at) => [Math.min(...all.map((point) => point[at])), Math.max(...all.map((point) => point[at]))];
    const { svg, x, y } = plot(words, range(0), range(1), axes);
    known.forEach((curve, i) => svg.append(draw("polyline", { class: `curve c${i % 4}`, points: curve.points.map(([a, b]) => `${x(a)},${y(b)}`).join(" ") })));
    if (list.length < 2) return svg;
    const legend = known.map((curve, i) => make("span", { className: `legend c${i % 4}` }, curve.name));
    return make("div", {}, svg, make("p", { className: "quiet" }, ...legend));
  }

  function curve(values, caption) {
    const known = (values || []).filter((value) => typeof value === "number");
    return known.length < 2 ? null : curves([{ x: known.keys().toArray?.() ?? known.map((_, i) => i), y: known }], `${caption}: from ${number(known[0])} to ${number(known.at(-1))}`, ["step", ""]);
  }

  // How a channel's responses are spread, with its winners marked.
  function histogram({ histogram: counts, histogram_edges: edges }, winners) {
    if (!counts?.length) return null;
    const most = Math.max(...counts);
    const words = `Histogram of the channel's responses from ${number(edges[0])} to ${number(edges.at(-1))}, the winners from ${number(winners.at(-1)?.score)} to ${number(winners[0]?.score)}`;
    const { svg, x, y } = plot(words, [edges[0], edges.at(-1)], [0, most], ["response", "images"]);
    counts.forEach((count, i) => {
      const bar = draw("rect", { x: x(edges[i]) + 0.5, y: y(count), width: Math.max(x(edges[i + 1]) - x(edges[i]) - 1, 1), height: Math.max(150 - y(count), 0) });
      bar.append(draw("title", {}, `${number(edges[i])} to ${number(edges[i + 1])}: ${count}`));
      svg.append(bar);
    });
    for (const { score, rank } of winners) {
      const mark = draw("path", { class: "mark", d: `M ${x(score)} 148 l -4 -9 h 8 z` });
      mark.append(draw("title", {}, `rank ${rank}: ${number(score, 4)}`));
      svg.append(mark);
    }
    return svg;
  }

  Object.assign(convscope, { EDGES, part, patch, patchOf, largePatch, whole, wholeOf, picture, strip, imageAddress, words, figure, draw, ticks, plot, curves, curve, histogram });
})();
