// Runs the calculators of a page: reads the sliders, calls the printed function, shows what it returns.
// Inside the HTML of each calculator; the first one on a page defines it, all of them start it.
(() => {
  "use strict";
  const version = "@VERSION@";
  if (globalThis.anatomyCalculator?.version === version) return globalThis.anatomyCalculator.start();

  // Numbers for a reader: the rule of `quantity` in calculator.py.
  const COUNTS = ["", "k", "M", "B", "T"];
  const SI = ["", "k", "M", "G", "T", "P", "E", "Z"];
  const SI_UNITS = ["FLOP", "B", "bit", "W", "Wh", "J", "Hz"];
  const SMALL = ["", "m", "µ", "n", "p"];
  const SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹";

  const significant = (value, digits) => {
    const [figures, exponent] = value.toExponential(digits - 1).split("e");
    return [figures.replace(".", ""), Number(exponent)];
  };

  const place = (figures, exponent, trim) => {
    figures = exponent < 0 ? "0".repeat(-exponent) + figures : figures.padEnd(exponent + 1, "0");
    const cut = Math.max(exponent, 0) + 1;
    const whole = figures.slice(0, cut).replace(/\B(?=(\d{3})+$)/g, ",");
    const decimals = trim ? figures.slice(cut).replace(/0+$/, "") : figures.slice(cut);
    return decimals ? `${whole}.${decimals}` : whole;
  };

  const parts = (value, given, digits, trim, atMost = Infinity) => {
    let [, unit, tail] = given.match(/^([^/ ]*)(.*)$/);
    if (unit === "bytes") unit = "B";
    const found = (text, prefix) => ({sign: value < 0 ? "−" : "", text, prefix, unit, tail});
    if (Number.isNaN(value)) return found("–", "");
    const size = unit === "%" ? Math.abs(value) * 100 : Math.abs(value);
    if (size === 0 || size === Infinity) return found(size ? "∞" : "0", "");
    let [prefixes, plain] = SI_UNITS.includes(unit) ? [SI, 3] : [COUNTS, Math.max(4, digits)];
    if (unit === "s") [prefixes, plain] = [[""], 6];
    plain = Math.min(plain, atMost);
    const before = significant(size, 17)[1] + 1; // figures before the point; a whole number keeps all of them
    if (digits < before && before <= plain) {
      const [all, last] = significant(size, before);
      if (last < plain) return found(place(all, last, trim), "");
    }
    const [figures, exponent] = significant(size, digits);
    const step = Math.floor(exponent / 3);
    if (unit === "s" && -SMALL.length < step && step < 0)
      return found(place(figures, exponent - 3 * step, trim), SMALL[-step]);
    if (-4 < exponent && exponent < plain) return found(place(figures, exponent, trim), "");
    if (0 < step && step < prefixes.length)
      return found(place(figures, exponent - 3 * step, trim), prefixes[step]);
    const power = String(exponent).replace(/./g, (c) => (c === "-" ? "⁻" : SUPERSCRIPTS[c]));
    return found(`${place(figures, 0, trim)} × 10${power}`, "");
  };

  const quantity = (value, given = "", digits = 3, trim = false) => {
    if (typeof value === "boolean") return value ? "yes" : "no";
    const {sign, text, prefix, unit, tail} = parts(value, given, digits, trim);
    if (unit === "$") return `${sign}$${text}${prefix && " " + prefix}${tail}`;
    const attached = SI_UNITS.includes(unit) || unit === "s";
    const joined = attached ? prefix + unit : `${prefix} ${unit}`.trim();
    return joined ? `${sign}${text} ${joined}${tail}`.trim() : `${sign}${text}${tail}`;
  };

  // The value of a slider. A logarithmic one moves in ticks; at its first tick it has exactly its start.
  const sliderValue = (input, tick, startTick, ticks) => {
    if (!input.log) return tick;
    if (tick === startTick) return input.start;
    if (tick <= 0) return input.low;
    if (tick >= ticks) return input.high;
    const value = Number((input.low * (input.high / input.low) ** (tick / ticks)).toPrecision(3));
    const rounded = input.step ? Math.round(value / input.step) * input.step : value;
    return Math.min(Math.max(rounded, input.low), input.high);
  };

  const niceTicks = (low, high, most) => {
    const rough = (high - low) / most;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find((m) => m * power >= rough * 0.999) * power;
    const first = Math.ceil(low / step - 1e-9);
    const last = Math.floor(high / step + 1e-9);
    return Array.from({length: last - first + 1}, (_, i) => Number(((first + i) * step).toPrecision(12)));
  };

  // Two at least, where a range lies between round numbers.
  const linearTicks = (low, high, most) => {
    const ticks = niceTicks(low, high, most);
    return ticks.length > 1 ? ticks : linearTicks(low, high, most + 1);
  };

  // Powers of ten, or 1, 2, 5 of each where these are few enough or powers are too few.
  const logTicks = (low, high, most) => {
    const ticks = (within) => {
      const all = [];
      for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
        all.push(...within.map((m) => Number((m * 10 ** power).toPrecision(12))));
      return all.filter((tick) => tick >= low * 0.999999 && tick <= high * 1.000001);
    };
    const [powers, fine] = [ticks([1]), ticks([1, 2, 5])];
    const chosen = fine.length <= most || powers.length < 2 ? fine : powers;
    const skip = Math.max(1, Math.ceil(chosen.length / most));
    const inside = chosen.filter((_, i) => i % skip === 0);
    return inside.length > 1 ? inside : linearTicks(low, high, most);
  };

  // An empty chart in a box: ticks, titles and scales. Each axis has low, high, log, label and unit.
  const axes = (box, x, y, height) => {
    const width = box.clientWidth;
    const short = (ticks, unit) =>
      ticks.map((tick) => {
        const large = unit !== "s" && Math.max(...ticks.map(Math.abs)) >= 1e4; // then 1 k, not 1,000
        const {sign, text, prefix} = parts(tick, unit, 3, true, large ? 3 : Infinity);
        return `${sign}${text}${prefix && " " + prefix}`;
      });
    const title = ({label, unit}) => {
      const shownUnit = unit.replace(/^bytes/, "B");
      return shownUnit ? `${label} (${shownUnit})` : label;
    };
    const ticks = ({low, high, log}, most) => (log ? logTicks : niceTicks)(low, high, most);
    const yTicks = ticks(y, y.log ? 5 : 6);
    const yLabels = short(yTicks, y.unit);
    const left = 12 + 7 * Math.max(...yLabels.map((text) => text.length));
    const right = width - 14;
    const [roof, floor] = [30, height - 44];
    const scale = ({low, high, log}, from, to) => {
      const f = log ? Math.log : Number;
      return (value) => from + ((to - from) * (f(value) - f(low))) / (f(high) - f(low));
    };
    const px = scale(x, left, right);
    const py = scale(y, floor, roof);

    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const add = (tag, attributes, text) => {
      const element = document.createElementNS(svg.namespaceURI, tag);
      for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
      if (text !== undefined) element.textContent = text;
      svg.append(element);
      return element;
    };
    svg.setAttribute("width", width);
    svg.setAttribute("height", height);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `Chart of ${title(y)} against ${title(x)}`);
    yTicks.forEach((tick, i) => {
      const at = py(tick).toFixed(1);
      add("line", {class: "grid", x1: left, x2: right, y1: at, y2: at});
      add("text", {x: left - 6, y: at, dy: "0.35em", "text-anchor": "end"}, yLabels[i]);
    });
    const xTicks = ticks(x, Math.max(2, Math.floor(width / 90)));
    const xLabels = short(xTicks, x.unit);
    xTicks.forEach((tick, i) => {
      const at = px(tick).toFixed(1);
      add("line", {class: "grid", x1: at, x2: at, y1: floor, y2: floor + 5});
      add("text", {x: at, y: floor + 18, "text-anchor": "middle"}, xLabels[i]);
    });
    add("line", {class: "axis", x1: left, x2: right, y1: floor, y2: floor});
    add("text", {class: "title", x: 0, y: 13}, title(y));
    add("text", {class: "title", x: right, y: height - 5, "text-anchor": "end"}, title(x));
    box.replaceChildren(svg);
    return {svg, add, px, py, left, right, roof, floor};
  };

  const drawCurve = (box, {xs, ys, x, y, input, output, log}) => {
    if (!box.clientWidth) return; // not shown yet
    const shown = xs.map((_, i) => i).filter((i) => Number.isFinite(ys[i]) && (!log || ys[i] > 0));
    if (!shown.length) return box.replaceChildren();
    const values = shown.map((i) => ys[i]);
    let [low, high] = [Math.min(...values), Math.max(...values)];
    if (!log) [low, high] = [Math.min(0, low), Math.max(0, high)];
    if (low === high) [low, high] = log ? [low / 2, high * 2] : [0, 1];
    if (!log) {
      const [first, second] = niceTicks(low, high, 5); // the axis ends at a tick
      const step = second - first;
      [low, high] = [Math.floor(low / step + 1e-9) * step, Math.ceil(high / step - 1e-9) * step];
    }
    const {add, px, py, floor} = axes(box, input, {...output, low, high, log}, 230);
    const point = (i, j) => {
      const joined = j > 0 && shown[j - 1] === i - 1; // a gap where there is no value
      return `${joined ? "L" : "M"}${px(xs[i]).toFixed(1)} ${py(ys[i]).toFixed(1)}`;
    };
    add("path", {class: "line", d: shown.map(point).join("")});
    if (Number.isFinite(y) && (!log || y > 0)) {
      add("line", {class: "now", x1: px(x), x2: px(x), y1: py(y), y2: floor});
      add("circle", {class: "now", cx: px(x).toFixed(1), cy: py(y).toFixed(1), r: 5});
    }
  };

  const fill = (element) => {
    const filled = (100 * (element.value - element.min)) / (element.max - element.min);
    element.style.setProperty("--filled", `${filled}%`);
  };

  // The inputs of a live figure: `read` says what they are set to; `changed` is called when one moves or all are reset.
  const controls = (root, inputs, changed) => {
    const all = inputs.map((input) => {
      const element = root.querySelector(`[data-input="${input.name}"]`);
      if (input.options) return {input, element, first: element.selectedIndex};
      return {input, element, first: Number(element.value), readout: element.parentNode.querySelector("output")};
    });
    const read = () => {
      const values = {};
      for (const {input, element, first, readout} of all) {
        if (input.options) values[input.name] = input.options[element.selectedIndex].value;
        else {
          const value = sliderValue(input, Number(element.value), first, Number(element.max));
          values[input.name] = value;
          readout.textContent = quantity(value, input.unit, input.digits, true);
          element.setAttribute("aria-valuetext", readout.textContent);
          fill(element);
        }
      }
      return values;
    };
    const reset = root.querySelector("button");
    reset.hidden = false;
    reset.addEventListener("click", () => {
      for (const {input, element, first} of all)
        if (input.options) element.selectedIndex = first;
        else element.value = first;
      changed("reset");
    });
    for (const {element} of all) element.addEventListener("input", () => changed());
    root.addEventListener("keydown", (event) => {
      // JupyterLab would take the keys that move a slider as its own, and a book may turn the page.
      if (/^(Arrow|Home|End|Page|Enter| )/.test(event.key)) event.stopPropagation();
    });
    return {all, read};
  };

  const show = (root, outputs, results) => {
    for (const {name, unit, digits} of outputs) {
      const element = root.querySelector(`[data-output="${CSS.escape(name)}"]`);
      const text = quantity(results[name], unit, digits);
      if (element.textContent !== text) element.textContent = text; // only changes are read aloud
    }
  };

  const onResize = (box, redraw) => {
    if (!globalThis.ResizeObserver) return;
    let width = box.clientWidth;
    new ResizeObserver(() => {
      if (box.clientWidth === width) return;
      width = box.clientWidth;
      redraw();
    }).observe(box);
  };

  const attach = (root) => {
    root.dataset.ready = "";
    const spec = JSON.parse(root.querySelector(".anatomy-calculator-spec").textContent);
    const compute = new Function(`return ${spec.function}`)();
    const box = root.querySelector(".curve");

    const plot = (values) => {
      const {input, element, first} = all.find(({input}) => input.name === spec.curve.x);
      const output = spec.outputs.find(({name}) => name === spec.curve.y);
      const at = (x) => Number(compute({...values, [input.name]: x})[output.name]);
      const [low, high, step] = [Number(element.min), Number(element.max), Number(element.step)];
      const stride = Math.max(1, Math.round((high - low) / 150 / step)) * step;
      const xs = [];
      for (let tick = low; tick < high - stride / 2; tick += stride) xs.push(sliderValue(input, tick, first, high));
      xs.push(input.high);
      const x = values[input.name];
      drawCurve(box, {xs, ys: xs.map(at), x, y: at(x), input, output, log: spec.curve.log});
    };

    const update = () => {
      const values = read();
      show(root, spec.outputs, compute(values));
      if (box) plot(values);
    };

    const {all, read} = controls(root, spec.inputs, update);
    update();
    if (box) onResize(box, update);
  };

  const start = () => document.querySelectorAll(".anatomy-calculator:not([data-ready])").forEach(attach);
  globalThis.anatomyCalculator = {version, quantity, sliderValue, axes, fill, controls, show, onResize, start};
  if (typeof document !== "undefined") start();
})();
