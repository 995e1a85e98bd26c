(() => {
  const root = document.currentScript.closest(".anatomy-ledger");
  const [section, verdict, words] = root.querySelectorAll(".anatomy-filters [name]");
  const boxes = [...root.querySelectorAll(".anatomy-claim")];
  const count = root.querySelector(".anatomy-filters output");
  const apply = () => {
    const text = words.value.trim().toLowerCase();
    let shown = 0;
    for (const box of boxes) {
      box.hidden = !((!section.value || box.dataset.section === section.value)
        && (!verdict.value || box.dataset.verdict === verdict.value)
        && (!text || box.textContent.toLowerCase().includes(text)));
      shown += !box.hidden;
    }
    for (const part of root.querySelectorAll(".anatomy-section")) {
      part.hidden = !part.querySelector(".anatomy-claim:not([hidden])");
    }
    count.textContent = `${shown} of ${boxes.length} claims`;
  };
  root.querySelector(".anatomy-filters").hidden = false;
  for (const control of [section, verdict, words]) control.addEventListener("input", apply);
  // A link to one claim must find it, whatever the filters say.
  const reveal = () => {
    const box = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (box && box.hidden) { section.value = verdict.value = words.value = ""; apply(); box.scrollIntoView(); }
  };
  addEventListener("hashchange", reveal);
  apply();
})();
