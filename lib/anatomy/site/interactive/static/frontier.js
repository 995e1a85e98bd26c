// Runs the frontiers of a page: draws the points, picks one by pointer, finger or key, shows what it stands for.
// Inside the HTML of each frontier, after the script of the calculators, whose pieces it uses.
(() => {
  "use strict";
  const version = "@VERSION@";
  if (globalThis.anatomyFrontier?.version === version) return globalThis.anatomyFrontier.start();
  const {quantity, axes, fill, controls, show, onResize} = globalThis.anatomyCalculator;
  const HEIGHT = 330;
  const MARGIN = 1.15; // of the axes, around the outermost points

  // Which of some places is nearest to a place; -1 if there is none.
  const nearest = (places, [x, y]) => {
    const away = places.map(([px, py]) => Math.hypot(px - x, py - y));
    return away.indexOf(Math.min(...away));
  };

  // What all points stand for, at these settings: for each set and series, a list of results.
  const evaluate = (spec, compute, settings) => {
    const one = (row) => compute({...settings, ...Object.fromEntries(spec.columns.map((name, i) => [name, row[i]]))});
    return Object.fromEntries(
      Object.entries(spec.sets).map(([key, both]) => [key, both.map((rows) => rows.map(one))]),
    );
  };

  // Ends of an axis that has room for the points of all sets, so that sets can be compared.
  const ends = (found, name) => {
    const values = Object.values(found).flat(2).map((result) => result[name]);
    return {low: Math.min(...values) / MARGIN, high: Math.max(...values) * MARGIN, log: true};
  };

  const attach = (root) => {
    root.dataset.ready = "";
    const spec = JSON.parse(root.querySelector(".anatomy-frontier-spec").textContent);
    const compute = new Function(`return ${spec.function}`)();
    const [x, y] = spec.axes.map((axis) => spec.outputs.find(({name}) => name === axis));
    const box = root.querySelector(".chart");
    const walk = root.querySelector("[data-walk]");
    const readout = walk.parentNode.querySelector("output");
    const names = spec.inputs.find(({name}) => name === "series").options.map(({label}) => label);
    const select = root.querySelector('[data-input="series"]');
    const first = Number(walk.value);
    for (const part of root.querySelectorAll(".chart, .walk, .inputs, .results")) part.hidden = false;
    root.querySelector(".without-script").hidden = true;

    let set = null; // key of the set that is shown
    let series = 0;
    let picked = first;
    let drawn = []; // for each series, places of its points
    let last = null; // what all points stand for, and the settings that it holds for

    const results = (settings) => {
      const key = JSON.stringify(settings);
      if (last?.key !== key) last = {key, found: evaluate(spec, compute, settings)};
      return last.found;
    };

    const draw = (found) => {
      if (!box.clientWidth) return; // not shown yet
      const [xAxis, yAxis] = [x, y].map((output) => ({...output, ...ends(found, output.name)}));
      const {svg, add, px, py, left, right, roof, floor} = axes(box, xAxis, yAxis, HEIGHT);
      drawn = found[set].map((points) => points.map((point) => [px(point[x.name]), py(point[y.name])]));
      const shape = ([cx, cy], index) =>
        index
          ? add("path", {class: "mark second", style: "fill:var(--other);stroke:none", d: `M${cx - 5} ${cy}l5 -5l5 5l-5 5z`})
          : add("circle", {class: "mark first", cx, cy, r: 4});
      drawn.forEach((places, index) => {
        const kind = index ? "second" : "first";
        if (places.length > 1)
          add("path", {class: kind, d: "M" + places.map((place) => place.map((v) => v.toFixed(1)).join(" ")).join("L")});
        places.forEach((place) => shape(place, index));
        const above = roof + 4 + 18 * index; // the legend, where the frontier never is
        shape([right - 8, above], index);
        add("text", {x: right - 18, y: above, dy: "0.35em", "text-anchor": "end"}, names[index]);
      });
      const place = drawn[series][picked];
      if (place) {
        add("line", {class: "now", x1: left, x2: place[0], y1: place[1], y2: place[1]});
        add("line", {class: "now", x1: place[0], x2: place[0], y1: place[1], y2: floor});
        add("circle", {class: "ring", cx: place[0].toFixed(1), cy: place[1].toFixed(1), r: 8});
      } else add("text", {x: (left + right) / 2, y: (roof + floor) / 2, "text-anchor": "middle"}, "No plan fits.");
      svg.setAttribute("aria-label", `${svg.getAttribute("aria-label")}. ${walk.getAttribute("aria-valuetext")}`);
    };

    const update = (what) => {
      const values = read();
      const key = spec.choices.map((name) => values[name]).join(",");
      const settings = Object.fromEntries(
        spec.inputs.filter(({low}) => low !== undefined).map(({name}) => [name, values[name]]),
      );
      const found = results(settings);
      if (what === "reset") picked = first;
      else if (set !== null && (key !== set || values.series !== series)) {
        // Of another set or series, the point that is as far along.
        const before = found[set][series][picked]?.[x.name];
        const points = found[key][values.series];
        picked = before ? nearest(points.map((point) => [Math.log(point[x.name]), 0]), [Math.log(before), 0]) : 0;
      }
      [set, series] = [key, values.series];
      const points = found[set][series];
      picked = Math.max(0, Math.min(picked, points.length - 1));
      walk.max = Math.max(points.length - 1, 1);
      walk.disabled = points.length < 2;
      walk.value = picked;
      fill(walk);
      const point = points[picked];
      readout.textContent = point ? `${picked + 1} of ${points.length}` : "none fits";
      const told = [x, y].map(({name, label, unit, digits}) => point && `${label} ${quantity(point[name], unit, digits)}`);
      walk.setAttribute("aria-valuetext", [readout.textContent, ...told].filter(Boolean).join(", "));
      show(root, spec.outputs, point ?? Object.fromEntries(spec.outputs.map(({name}) => [name, NaN])));
      draw(found);
    };

    const pick = (event) => {
      const frame = box.getBoundingClientRect();
      const at = [event.clientX - frame.left, event.clientY - frame.top];
      const all = drawn.flatMap((places, index) => places.map((place, i) => ({place, index, i})));
      const hit = all[nearest(all.map(({place}) => place), at)];
      if (!hit || (hit.index === series && hit.i === picked)) return;
      set = null; // the point is given: none is looked for
      select.selectedIndex = hit.index;
      picked = hit.i;
      update();
    };

    const {read} = controls(root, spec.inputs, update);
    walk.addEventListener("input", () => {
      picked = Number(walk.value);
      update();
    });
    box.addEventListener("pointermove", pick);
    box.addEventListener("pointerdown", (event) => {
      pick(event);
      walk.focus({preventScroll: true}); // arrow keys go on from here
    });
    update();
    onResize(box, update);
  };

  const start = () => document.querySelectorAll(".anatomy-frontier:not([data-ready])").forEach(attach);
  globalThis.anatomyFrontier = {version, nearest, evaluate, ends, start};
  if (typeof document !== "undefined") start();
})();
