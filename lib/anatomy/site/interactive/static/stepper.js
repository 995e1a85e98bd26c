// Steps through recorded speculation: by buttons, slider, arrow keys, or by itself.
// Inside the HTML of each figure; needs nothing else.
(() => {
  "use strict";
  const version = "@VERSION@";
  if (globalThis.anatomyStepper?.version === version) return globalThis.anatomyStepper.start();
  const PAUSE = 1600; // ms between steps that play by themselves

  const visible = (text) => text.replaceAll("\n", "↵\n");
  const number = (value) => (value === null ? "–" : value >= 0.001 || value === 0 ? value.toFixed(3) : "<0.001");

  const make = (tag, name, text = "") => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    element.textContent = text;
    return element;
  };

  // A bar as long as a share, and the share.
  const bar = (kind, value) => {
    const cell = make("td", kind);
    const line = make("span", "bar");
    line.style.width = `${100 * (value ?? 0)}%`;
    cell.append(make("span", "value", number(value)), line);
    return cell;
  };

  const table = ({what, distributions}) => {
    const made = make("table", "");
    const head = make("tr", "");
    const other = {resampled: "residual", bonus: "target p"}[what] ?? "draft q";
    for (const name of ["Token", "target p", other]) {
      const cell = make("th", "", name);
      cell.scope = "col";
      head.append(cell);
    }
    made.append(head);
    for (const [token, p, q, chosen] of distributions) {
      const row = make("tr", chosen ? "chosen" : "");
      const name = make("th", "", token);
      name.scope = "row";
      row.append(name, bar("p", p), bar("q", q));
      made.append(row);
    }
    return made;
  };

  const attach = (root) => {
    root.dataset.ready = "";
    const {prompt, decisions} = JSON.parse(root.querySelector(".anatomy-stepper-spec").textContent);
    const find = (name) => root.querySelector(name);
    const walk = find("[data-walk]");
    const play = find("[data-play]");
    let timer = null;
    find(".player").hidden = false;
    find(".without-script").hidden = true;

    const show = () => {
      const at = Number(walk.value);
      const decision = decisions[at];
      find(".known").textContent = visible(prompt + decision.before);
      find(".draft").replaceChildren(
        ...decision.draft.map(([token, mark]) => {
          const part = make("span", `token ${mark}`, visible(token));
          part.title = mark;
          return part;
        }),
      );
      find(".say").textContent = decision.say;
      find(".distributions").replaceChildren(table(decision));
      const place = `${at + 1} of ${decisions.length}: step ${decision.step}, ${decision.what}`;
      walk.parentNode.querySelector("output").textContent = place;
      walk.setAttribute("aria-valuetext", place);
      walk.style.setProperty("--filled", `${(100 * at) / (decisions.length - 1)}%`);
      find('[data-go="-1"]').disabled = at === 0;
      find('[data-go="1"]').disabled = at === decisions.length - 1;
    };

    const stop = () => {
      clearInterval(timer);
      timer = null;
      play.textContent = "Play";
      play.setAttribute("aria-pressed", "false");
    };

    const go = (by) => {
      walk.value = Number(walk.value) + by;
      show();
      if (Number(walk.value) === decisions.length - 1) stop();
    };

    for (const button of root.querySelectorAll("[data-go]"))
      button.addEventListener("click", () => {
        stop();
        go(Number(button.dataset.go));
      });
    walk.addEventListener("input", () => {
      stop();
      show();
    });
    play.addEventListener("click", () => {
      if (timer !== null) return stop();
      if (Number(walk.value) === decisions.length - 1) walk.value = 0;
      else walk.value = Number(walk.value) + 1;
      play.textContent = "Pause";
      play.setAttribute("aria-pressed", "true");
      show();
      timer = setInterval(() => go(1), PAUSE);
    });
    show();
  };

  const start = () => document.querySelectorAll(".anatomy-stepper:not([data-ready])").forEach(attach);
  globalThis.anatomyStepper = {version, number, start};
  if (typeof document !== "undefined") start();
})();
