// The shapes of a net's blobs for any sizes of its inputs: each layer's rule is a function of its name here.
// It computes what Python's layers do; tests/viewer/test_view_browser.py compares the two on all nets.
const netShapes = (() => {
  class Misfit extends Error {}
  const count = (sizes) => sizes.reduce((product, size) => product * size, 1);
  const show = (shape) => (shape.length ? shape.join("x") : "(scalar)");
  const equal = (a, b) => a.length === b.length && a.every((size, at) => size === b[at]);
  const fail = (message) => { throw new Misfit(message); };
  const four = (shape) => { if (shape.length !== 4) fail(`needs N x C x H x W, got ${show(shape)}`); };
  const positive = (shape) => (shape.some((size) => size < 1) ? fail(`would make ${show(shape)}: too small a bottom`) : shape);

  const sides = (rule, bottom, size) => bottom.slice(rule.axis + 1).map((side, at) => {
    const extent = rule.dilation[at] * (rule.kernel[at] - 1) + 1;
    const out = size(side, extent, rule.stride[at], rule.pad[at]);
    return out < 1 ? fail(`a bottom ${show(bottom)} is too small for a kernel of extent ${extent}`) : out;
  });
  const windows = (rule, bottom, size) => {
    if (bottom[rule.axis] !== rule.channels) fail(`has ${bottom[rule.axis]} channels, the weights are for ${rule.channels}`);
    const outputs = rule.outputs === null ? rule.channels * count(rule.kernel) : rule.outputs;
    return [...bottom.slice(0, rule.axis), outputs, ...sides(rule, bottom, size)];
  };
  const equals = (bottoms) => {
    for (const bottom of bottoms) if (!equal(bottom, bottoms[0])) fail(`bottoms are ${bottoms.map(show).join(" and ")}: all must be equal`);
  };

  const rules = {
    same: (rule, bottoms, tops) => Array(tops).fill(bottoms[rule.bottom || 0]),
    equal: (rule, bottoms) => { equals(bottoms); return [bottoms[0]]; },
    scalar: (rule, bottoms, tops) => Array(tops).fill([]),
    convolution: (rule, bottoms) => {
      equals(bottoms);
      return bottoms.map((bottom) => windows(rule, bottom,
        (side, extent, stride, pad) => Math.trunc((side + 2 * pad - extent) / stride) + 1));
    },
    deconvolution: (rule, bottoms) => {
      equals(bottoms);
      return bottoms.map((bottom) => windows(rule, bottom,
        (side, extent, stride, pad) => stride * (side - 1) + extent - 2 * pad));
    },
    pooling: (rule, [bottom], tops) => {
      four(bottom);
      const clip = rule.pad.some((pad) => pad > 0);
      const out = bottom.slice(2).map((side, at) => {
        const kernel = rule.whole ? side : rule.kernel[at];
        const steps = (side + 2 * rule.pad[at] - kernel) / rule.stride[at];
        let size = (rule.ceil ? Math.ceil(steps) : Math.floor(steps)) + 1;
        if (clip && (size - 1) * rule.stride[at] >= side + rule.pad[at]) size -= 1;
        return size < 1 ? fail(`a bottom ${show(bottom)} is smaller than the kernel`) : size;
      });
      return Array(tops).fill([...bottom.slice(0, 2), ...out]);
    },
    concat: (rule, bottoms) => {
      const top = [...bottoms[0]];
      for (const bottom of bottoms.slice(1)) {
        if (bottom.length !== top.length || bottom.some((size, at) => at !== rule.axis && size !== top[at]))
          fail(`bottoms are ${bottoms.map(show).join(" and ")}: all axes but ${rule.axis} must be equal`);
        top[rule.axis] += bottom[rule.axis];
      }
      return [top];
    },
    slice: (rule, [bottom], tops) => {
      const size = bottom[rule.axis];
      if (!rule.points.length && size % tops) fail(`${size} do not cut evenly into ${tops} tops`);
      const edges = rule.points.length ? [0, ...rule.points, size] : [...Array(tops + 1).keys()].map((at) => at * size / tops);
      return edges.slice(1).map((edge, at) => {
        const part = [...bottom];
        part[rule.axis] = edge - edges[at];
        return part[rule.axis] < 1 ? fail(`the points of the cut do not fit a size of ${size}`) : part;
      });
    },
    crop: (rule, [bottom, reference]) => {
      if (reference.length < bottom.length) fail(`bottoms are ${show(bottom)} and ${show(reference)}`);
      const top = [...bottom];
      rule.offsets.forEach((offset, at) => {
        const axis = rule.axis + at;
        if (offset + reference[axis] > bottom[axis])
          fail(`axis ${axis} needs offset ${offset} + ${reference[axis]} = ${offset + reference[axis]}, the bottom has ${bottom[axis]}`);
        top[axis] = reference[axis];
      });
      return [top];
    },
    flatten: (rule, [bottom]) => [[...bottom.slice(0, rule.start), count(bottom.slice(rule.start, rule.end + 1)), ...bottom.slice(rule.end + 1)]],
    reshape: (rule, [bottom]) => {
      const middle = count(bottom.slice(rule.start, rule.end));
      const sizes = rule.wanted.map((size, at) => (size === 0 ? bottom[rule.start + at] : size));
      const free = sizes.indexOf(-1);
      if (free >= 0) sizes[free] = middle / count(sizes.filter((size) => size !== -1));
      if (count(sizes) !== middle || sizes.some((size) => !Number.isInteger(size))) fail(`${middle} values do not fit ${show(rule.wanted)}`);
      return [[...bottom.slice(0, rule.start), ...sizes, ...bottom.slice(rule.end)]];
    },
    tile: (rule, [bottom]) => [bottom.map((size, axis) => (axis === rule.axis ? size * rule.tiles : size))],
    permute: (rule, [bottom]) => [rule.order.map((axis) => bottom[axis])],
    inner: (rule, [bottom]) => {
      const inputs = count(bottom.slice(rule.axis));
      if (inputs !== rule.inputs) fail(`a bottom ${show(bottom)} gives ${inputs} inputs, the weights are for ${rule.inputs}: an inner product fixes its input's size`);
      return [[...bottom.slice(0, rule.axis), rule.outputs]];
    },
    embed: (rule, [bottom]) => [[...bottom, rule.outputs]],
    reduce: (rule, [bottom]) => [bottom.slice(0, rule.axis)],
    argmax: (rule, [bottom]) => [rule.axis === null
      ? [bottom[0], 1 + rule.values, rule.top_k, ...Array(Math.max(0, bottom.length - 3)).fill(1)]
      : bottom.map((size, axis) => (axis === rule.axis ? rule.top_k : size))],
    accuracy: (rule, [bottom], tops) => [[], [bottom[rule.axis]]].slice(0, tops),
    resize: (rule, bottoms) => {
      const [bottom] = bottoms;
      four(bottom);
      equals(bottoms); // the second is the mask
      return [[...bottom.slice(0, 2), ...(rule.wanted || [0, 1].map((at) => bottom[2 + at] * rule.scale[at] - rule.less[at]))]];
    },
    interp: (rule, [bottom]) => {
      four(bottom);
      const size = (side) => {
        const small = Math.floor((side + rule.pads - 1) / rule.shrink) + 1;
        return small + (small - 1) * (rule.zoom - 1);
      };
      return [positive([...bottom.slice(0, 2), ...(rule.wanted || bottom.slice(2).map(size))])];
    },
    pad: (rule, [bottom]) => {
      four(bottom);
      return [positive([...bottom.slice(0, 2), ...rule.by.map((by, at) => bottom[2 + at] + by)])];
    },
    pyramid: (rule, [bottom]) => {
      four(bottom);
      if (rule.levels === 1) return [[bottom[0], bottom[1], 1, 1]];
      return [[bottom[0], bottom[1] * [...Array(rule.levels).keys()].reduce((sum, level) => sum + 4 ** level, 0)]];
    },
  };

  function adds(rule, bottoms, tops) {
    if (!rule.weights) return 0;
    if (rule.rule === "inner") return count(tops[0].slice(0, rule.axis)) * rule.weights;
    return count(rule.rule === "deconvolution" ? bottoms[0] : tops[0]) / rule.per * rule.weights;
  }

  // layers: those of the page. built: the shapes that the net was built with. inputs: other shapes, by blob.
  // A shape that is not known is null; problems: by layer, why.
  function compute(layers, built, inputs) {
    const shapes = new Map(), made = [], problems = new Map();
    const isBuilt = Object.entries(inputs).every(([blob, shape]) => equal(shape, built[blob]));
    layers.forEach((layer, index) => {
      const bottoms = layer.bottoms.map((blob) => shapes.get(blob));
      const { rule } = layer.rule;
      let tops = null;
      if (rule === "input") tops = layer.tops.map((blob) => (Object.hasOwn(inputs, blob) ? inputs[blob] : built[blob]));
      else if (rule === "fixed" || (isBuilt && rule === "unknown")) tops = layer.tops.map((blob) => built[blob]);
      else if (rule === "unknown") problems.set(index, "no rule for its shape is known here");
      else if (bottoms.every(Boolean)) {
        try {
          tops = rules[rule](layer.rule, bottoms, layer.tops.length);
        } catch (error) {
          if (!(error instanceof Misfit)) throw error;
          problems.set(index, error.message);
        }
      }
      layer.tops.forEach((blob, at) => shapes.set(blob, tops && tops[at] ? tops[at] : null));
      made.push({ bottoms, tops, adds: tops ? adds(layer.rule, bottoms, tops) : null });
    });
    return { shapes, layers: made, problems };
  }
  return { compute, count, show };
})();
