// What the pages share: data files, elements, patches, addresses. Data files are scripts, because a page opened from disk
// may read nothing else; they report to convscope.take. Text goes into a page as text, never as HTML.
"use strict";

const convscope = (() => {
  const version = document.body.dataset.version;
  const taken = new Map(); // key -> promise of a value, and the functions that keep or break the promise

  // ---- data

  function entry(key) {
    if (!taken.has(key)) {
      const one = {};
      one.promise = new Promise((keep, fail) => Object.assign(one, { keep, fail }));
      taken.set(key, one);
    }
    return taken.get(key);
  }

  function take(key, value) {
    entry(key).keep(value);
  }

  function load(key, file) {
    const one = entry(key);
    if (!one.asked) {
      one.asked = true;
      const script = document.createElement("script");
      script.src = `${encodeURI(file)}?${version}`;
      script.onerror = () => one.fail(new Error(`${file} is missing. Make the page again: convscope run SPEC --stage report.`));
      document.head.append(script);
    }
    return one.promise;
  }

  // A table of columns to a list of rows.
  function rows(columns) {
    const names = Object.keys(columns || {});
    const count = names.length ? columns[names[0]].length : 0;
    return Array.from({ length: count }, (_, i) => Object.fromEntries(names.map((name) => [name, columns[name][i]])));
  }

  // A layer's channels, each with its rows of every table, in the page's order.
  async function openLayer(job, name) {
    const layer = job.layers.find((one) => one.name === name);
    if (!layer) throw new Error(`There is no layer ${name} in this job.`);
    const found = await load(`${job.prefix}layer:${name}`, layer.data);
    if (!layer.channels) {
      const tables = Object.fromEntries(Object.entries(found.tables).map(([table, stored]) => [table, byChannel(Array.isArray(stored) ? stored : rows(stored))]));
      const of = (table, number) => tables[table]?.get(number) || [];
      layer.channels = found.order.map((number) => ({
        number,
        layer,
        job,
        statistics: of("channels", number)[0] || {},
        winners: of("activations", number),
        weakest: of("weakest", number),
        byLabel: of("by_label", number),
        filters: of("filters", number),
        kernels: found.kernels?.[number] || [],
        maps: found.maps?.[number] || {},
        patterns: of("patterns", number).map((row) => ({ ...row, file: found.patterns?.[number]?.[`${row.sign} ${row.variant}`] })),
      }));
    }
    return layer;
  }

  function byChannel(list) {
    const groups = new Map();
    for (const row of list) {
      if (!groups.has(row.channel)) groups.set(row.channel, []);
      groups.get(row.channel).push(row);
    }
    return groups;
  }

  // ---- elements

  function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (value === undefined || value === null) continue;
      if (name in element && name !== "role") element[name] = value;
      else element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }

  const address = (...parts) => `#/${parts.map((part) => encodeURIComponent(part)).join("/")}`;
  const number = (value, digits = 3) => (typeof value === "number" ? String(Number(value.toPrecision(digits))) : "–");
  const percent = (value) => (typeof value === "number" ? `${Math.round(value * 100)} %` : "–");

  // Does something to elements once they come near the window.
  function whenNear(elements, act) {
    const watcher = new IntersectionObserver(
      (seen) => {
        for (const one of seen.filter((one) => one.isIntersecting)) {
          watcher.unobserve(one.target);
          act(one.target);
        }
      },
      { rootMargin: "800px" },
    );
    for (const element of elements) watcher.observe(element);
  }

  // A part of a picture, shown at its own shape: y, x, height and width in the picture's pixels, which has `size` of them.
  function part(file, size, [y, x, height, width], words, shape) {
    const shown = make("span", { className: "patch" });
    if (words) Object.assign(shown, { role: "img", ariaLabel: words, title: words });
    const share = (from, length, all) => (all > length ? (100 * from) / (all - length) : 0);
    const [tall, wide] = shape || [height, width];
    const longest = Math.max(tall, wide);
    shown.style.setProperty("--wide", `calc(var(--patch) * ${wide / longest})`);
    shown.style.setProperty("--tall", `calc(var(--patch) * ${tall / longest})`);
    shown.style.backgroundImage = `url("${encodeURI(file)}?${version}")`;
    shown.style.backgroundSize = `${(100 * size[1]) / width}% ${(100 * size[0]) / height}%`;
    shown.style.backgroundPosition = `${share(x, width, size[1])}% ${share(y, height, size[0])}%`;
    return shown;
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

  // The edges of what was cropped, in pixels of the source image.
  const cropped = (winner, name) => winner[`eff_src_${name}`] ?? winner[`map_src_${name}`] ?? winner[`src_${name}`];

  // A patch for a large place: from the whole image's thumbnail, where that has more of its pixels than the mosaic.
  function largePatch(channel, winner) {
    const size = channel.job.images[winner.example];
    const { tile } = channel.layer;
    if (!size || !tile) return patchOf(channel, winner);
    const [file, height, width] = size;
    const [y1, x1, y2, x2] = ["y1", "x1", "y2", "x2"].map((name) => cropped(winner, name));
    const pixels = (Math.max(y2 - y1, x2 - x1) * Math.min(256, Math.max(height, width))) / Math.max(height, width);
    if (pixels <= 1.2 * Math.max(tile.height, tile.width)) return patchOf(channel, winner);
    return part(file, [height, width], [y1, x1, y2 - y1, x2 - x1], words(winner));
  }

  // The whole image of a winner with its box drawn and, where there is one, its channel's map as light.
  function whole(channel, winner, words) {
    const size = channel.job.images[winner.example];
    if (!size) return null;
    const [file, height, width, ...seen] = size;
    const shown = make("span", { className: "whole" });
    shown.style.aspectRatio = `${width} / ${height}`;
    const image = make("img", { loading: "lazy", alt: words, src: `${file}?${version}` });
    const box = make("span", { className: "box" });
    place(box, ["y1", "x1", "y2", "x2"].map((name) => cropped(winner, name)), height, width);
    shown.append(image);
    const map = channel.winners.includes(winner) ? channel.maps[winner.rank] : null; // other tables have none
    if (map && typeof seen[0] === "number") {
      const light = make("img", { className: "light", alt: "", src: `data:image/png;base64,${map}` });
      place(light, seen, height, width);
      shown.append(light);
    }
    shown.append(box);
    return shown;
  }

  function place(element, [y1, x1, y2, x2], height, width) {
    const edges = { left: x1 / width, top: y1 / height, width: (x2 - x1) / width, height: (y2 - y1) / height };
    for (const [side, share] of Object.entries(edges)) element.style[side] = `${100 * share}%`;
  }

  function words(winner) {
    const label = winner.label === null ? "" : `, ${winner.label}`;
    return `rank ${winner.rank}: ${number(winner.score, 4)}${label}, ${winner.key}`;
  }

  function patchOf(channel, winner) {
    return patch(channel.layer, channel.number, winner.rank, words(winner));
  }

  function wholeOf(channel, winner) {
    return whole(channel, winner, words(winner));
  }

  // A winner as its crop or, where wanted, as its whole image; as whatever there is of the two; else in words.
  function picture(channel, winner, wanted) {
    const ways = wanted ? [wholeOf, patchOf] : [patchOf, wholeOf];
    return ways[0](channel, winner) || ways[1](channel, winner) || make("span", { className: "quiet" }, words(winner));
  }

  // A picture with words below it, which are its alternative text too; src is below the page's folder.
  function figure(src, caption, properties = {}) {
    const file = src.split("/").map((part) => (part === ".." ? part : encodeURIComponent(part))).join("/");
    const image = make("img", { loading: "lazy", alt: caption, src: `${file}?${version}`, ...properties });
    return make("figure", {}, image, make("figcaption", { className: "quiet" }, caption));
  }

  // A curve of numbers over steps, drawn as a line.
  function curve(values, caption) {
    const known = (values || []).filter((value) => typeof value === "number");
    if (known.length < 2) return null;
    const [low, high] = [Math.min(...known), Math.max(...known)];
    const svg = draw("svg", { class: "curve", viewBox: "0 0 320 110", role: "img", "aria-label": `${caption}: from ${number(known[0])} to ${number(known[known.length - 1])}` });
    const points = known.map((value, step) => `${(320 * step) / (known.length - 1)},${100 - (90 * (value - low)) / (high - low || 1)}`);
    svg.append(draw("polyline", { points: points.join(" ") }), draw("text", { x: 0, y: 10 }, number(high)), draw("text", { x: 0, y: 108 }, number(low)));
    return svg;
  }

  function draw(tag, attributes, text) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    return element;
  }

  // A labelled choice that keeps its answer in state[name].
  function choice(label, state, name, options, again) {
    const select = make("select", { ariaLabel: label }, ...options.map(([value, text]) => make("option", { value, textContent: text })));
    select.value = state[name];
    select.onchange = () => {
      state[name] = select.value;
      again();
    };
    return make("label", {}, label, select);
  }

  function facts(pairs) {
    const lines = pairs.filter(([, value]) => value !== undefined && value !== null && value !== "–");
    return make("table", {}, make("tbody", {}, ...lines.map(([name, value]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value)))));
  }

  function copyText(text, button) {
    const done = () => {
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 1500);
    };
    // Pages opened from disk are not always trusted with the clipboard's newer interface.
    const area = make("textarea", { value: text });
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    button.focus();
    if (copied) done();
    else if (navigator.clipboard) navigator.clipboard.writeText(text).then(done, () => (button.textContent = "Select it and copy"));
  }

  // ---- where we are

  const here = () => location.hash.replace(/^#\/?/, "").split("/").filter(Boolean).map(decodeURIComponent);

  // Show what the address says, now and whenever it changes. `show(root, parts)` fills an empty element for an address
  // that is not the overview's.
  function follow(title, show) {
    async function route(event) {
      const parts = here();
      const fresh = make("div");
      try {
        if (parts.length) await show(fresh, parts);
      } catch (error) {
        const back = make("p", {}, make("a", { href: "#/" }, "Back to the overview"));
        fresh.replaceChildren(make("h1", { tabIndex: -1 }, "Not here"), make("p", { className: "notice" }, error.message), back);
      }
      if (here().join("/") !== parts.join("/")) return; // someone was quicker
      document.getElementById("overview").hidden = parts.length > 0;
      const changing = document.getElementById("changing");
      changing.hidden = !parts.length;
      changing.replaceChildren(fresh);
      document.getElementById("layers").value = parts[0]?.startsWith("+") ? "" : (parts[0] ?? "");
      document.title = [...[...parts].reverse(), title, "convscope"].join(" · ");
      if (!event) return;
      scrollTo(0, 0);
      (fresh.querySelector("h1") || document.getElementById("view")).focus({ preventScroll: true });
    }

    function keys(event) {
      const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
      if (typing || event.altKey || event.ctrlKey || event.metaKey || document.querySelector("dialog[open]")) return;
      const rel = { ArrowLeft: "prev", ArrowRight: "next", Escape: "up" }[event.key];
      const link = rel && document.querySelector(`#changing a[rel=${rel}]`);
      if (link) location.href = link.href;
      else if (rel === "up") location.hash = "#/";
    }

    document.getElementById("layers").onchange = (event) => {
      location.hash = event.target.value ? address(event.target.value) : "#/";
    };
    addEventListener("hashchange", route);
    addEventListener("keydown", keys);
    route();
  }

  const ready = (key) => entry(key).promise;

  return { take, ready, load, rows, openLayer, make, address, number, percent, whenNear, patch, patchOf, largePatch, wholeOf, picture, figure, curve, draw, words, choice, facts, copyText, follow };
})();
