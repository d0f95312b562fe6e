// The page of one job: which view an address names, and the strips of the overview.
"use strict";

convscope.ready("job").then((job) => {
  const { VIEWS, showLayer, showChannel, showImage, showLabel, showLabels, showFind, whenNear, patch, make, link, address } = convscope;
  const layers = new Map(job.layers.map((layer) => [layer.name, layer]));
  whenNear(document.querySelectorAll(".strip"), (strip) => {
    const layer = layers.get(strip.dataset.layer);
    for (const { number, patches, says } of layer.striking) {
      const items = Array.from({ length: patches }, (_, rank) => make("li", {}, patch(layer, number, rank) ?? ""));
      strip.append(link(make("ul", { className: "patches" }, ...items), address(layer.name, number), { className: "striking", ariaLabel: `${layer.name}, channel ${number}` }));
      strip.lastChild.append(make("span", { className: "quiet" }, says));
    }
  });
  const views = { ...VIEWS, "+image": showImage, "+label": showLabel, "+labels": showLabels, "+find": showFind };
  convscope.follow(job.name, (root, parts, settings) => {
    if (views[parts[0]]) return views[parts[0]](job, root, parts, settings);
    return parts.length === 1 ? showLayer(job, root, parts, settings) : showChannel(job, root, parts, settings);
  });
});
