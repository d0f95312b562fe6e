// What the words on the pages mean, a sentence each; tooltips show them, and a view lists them.
"use strict";

(() => {
  const { make, heading } = convscope;

  const GLOSSARY = {
    channel: "One feature map of a layer: the same filter applied at every place of the image.",
    response: "The maximum of a channel's map over an image.",
    winner: "One of the images to which a channel responds most.",
    rank: "The place among a channel's winners; 0 is the strongest.",
    patch: "The part of a winning image that makes the channel respond.",
    "images seen": "How many images of the data set went through the network.",
    mean: "The mean of the channel's responses over all images.",
    "standard deviation": "How far the channel's responses usually lie from their mean.",
    maximum: "The strongest response to any image.",
    quartiles: "A quarter, a half and three quarters of all responses lie below these.",
    "share above zero": "The share of images to which the channel responds with more than zero.",
    unclipped: "The response before the layer's upper limit (such as the 6 of ReLU6) cuts it; winners are ranked by it.",
    saturated: "More than half of all images reach the channel's maximum: it can tell them no further apart.",
    "always negative": "No image has a response above zero.",
    ties: "How many images respond exactly as strongly as the last winner without being listed.",
    dead: "The channel's response is zero for every image.",
    purity: "The share of the winners that have the winners' most frequent label.",
    selectivity: "(a − b) / (a + b), with a the mean response to the preferred label and b that to the others: 0 if all labels are alike, 1 if only one excites the channel.",
    twin: "The channel of the same layer whose responses correlate most with this one's.",
    correlation: "Pearson's, over up to 512 images that are chosen by their number: 1 if two channels rise and fall together.",
    "nearest channels": "The channels whose responses correlate most with this one's, in this layer and in the others.",
    name: "The concept that agrees best with the channel's responses, where chance would hardly give it. A claim, not a fact.",
    concepts: "What channels are compared with: labels, words, or masks. The best is first; in bold, where it is a name.",
    measure: "How agreement with a concept is measured; higher is better.",
    clarity: "How alike the patches of a channel's winners are: the mean cosine of two of their embeddings.",
    polysemanticity: "How unlike the two halves are into which a channel's winners fall best: near 0, it answers to one thing.",
    redundancy: "The cosine of this channel's mean winner and that of the channel whose winners are most like it.",
    margin: "How far the best concept is ahead of the second.",
    chance: "The share of channels whose best concept agrees as well when their images are permuted.",
    "receptive field": "The part of the input that can change a unit at all.",
    field: "The part of the input that can change a unit at all, in pixels.",
    "effective field": "The part of the receptive field that in fact matters for a response.",
    stride: "How many pixels of the input lie from one unit's field to the next.",
    map: "The values of a channel over the image, rows × columns.",
    kernel: "The learned weights of a filter.",
    "norm of the kernel": "The root of the sum of the kernel's squared weights.",
    "nearest kernel": "The filter of the layer whose weights point in the most similar direction.",
    agreement: "The rank correlation of an earlier channel's weights with what it adds to the winners (gradient times activation): 1 if both order the channels alike.",
    pattern: "A picture made from noise so that it excites the channel.",
    overlap: "The share of the images that win in both jobs among those that win in either.",
    shift: "How far the mean moved from A to B, in standard deviations of A.",
    match: "The channel of B whose responses to the same images correlate most with the channel of A, each channel of B given once.",
    randomisation: "A check: an explanation must change when the network's weights are made random.",
    deletion: "A check: pixels are removed in the order of the map, and the answer should fall fast.",
    insertion: "A check: pixels are put back in the order of the map, and the answer should rise fast.",
  };

  async function showGlossary(job, root, [, wanted]) {
    const entries = Object.entries(GLOSSARY).sort(([a], [b]) => (a < b ? -1 : 1));
    const items = entries.map(([word, meaning]) => make("div", { className: word === wanted ? "wanted" : "" }, make("dt", {}, word), make("dd", {}, meaning)));
    root.append(heading("Glossary"), make("dl", { className: "glossary" }, ...items));
    setTimeout(() => root.querySelector(".wanted")?.scrollIntoView({ block: "center" }));
  }

  Object.assign(convscope, { GLOSSARY, showGlossary });
})();
