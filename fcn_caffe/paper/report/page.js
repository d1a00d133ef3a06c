"use strict";
(() => {
  const form = document.getElementById("filters");
  const claims = [...document.querySelectorAll("article.claim")];
  const details = [...document.querySelectorAll("details")];
  const sections = [...document.querySelectorAll("section.where, section.paper")];
  const words = document.getElementById("words");
  const shown = document.getElementById("shown");
  const openAll = document.getElementById("all-details");
  const fields = ["verdict", "kind", "source"];
  const texts = new Map(claims.map((claim) => [claim, claim.textContent.toLowerCase()]));

  // Without this script everything is open and in sight; with it, what is long waits to be asked for.
  for (const one of details) one.open = false;
  form.hidden = false;

  const boxes = (field) => [...form.querySelectorAll(`input[name="${field}"]`)];
  const chosen = (field) => boxes(field).filter((box) => box.checked).map((box) => box.value);

  function apply() {
    const wanted = fields.map((field) => [field, chosen(field)]);
    const parts = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const claim of claims) {
      const fits = wanted.every(([field, values]) => !values.length || values.includes(claim.dataset[field]))
        && parts.every((part) => texts.get(claim).includes(part));
      claim.hidden = !fits;
      count += fits;
    }
    for (const section of sections) section.hidden = !section.querySelector("article.claim:not([hidden])");
    shown.textContent = `${count} of ${claims.length} claims`;
    document.getElementById("no-match").hidden = count > 0;
  }

  function save() {
    const state = new URLSearchParams();
    for (const field of fields) for (const value of chosen(field)) state.append(field, value);
    if (words.value.trim()) state.set("q", words.value.trim());
    const open = claims.filter((claim) => claim.querySelector("details").open).map((claim) => claim.id);
    if (open.length && open.length < claims.length) state.set("open", open.join(" "));
    const hash = state.toString();
    history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
  }

  function show(id) {
    const target = document.getElementById(id);
    if (!target) return;
    const claim = target.closest("article.claim");
    if (claim && claim.hidden) clear();
    const inner = target.closest("details") || target.querySelector(":scope > details");
    if (inner) inner.open = true;
    target.scrollIntoView();
  }

  function clear() {
    form.querySelectorAll("input[type=checkbox]").forEach((box) => { box.checked = false; });
    words.value = "";
    apply();
  }

  // The hash is a state (names with values), or the place that a link leads to.
  function restore() {
    const hash = location.hash.slice(1);
    if (hash && !hash.includes("=")) {
      let id = hash;
      if (!document.getElementById(id)) try { id = decodeURIComponent(hash); } catch { /* a hash of somebody else */ }
      apply();
      show(id);
      return;
    }
    const state = new URLSearchParams(hash);
    for (const field of fields) for (const box of boxes(field)) box.checked = state.getAll(field).includes(box.value);
    words.value = state.get("q") || "";
    const open = (state.get("open") || "").split(" ");
    for (const claim of claims) if (open.includes(claim.id)) claim.querySelector("details").open = true;
    apply();
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => { apply(); save(); });
  form.addEventListener("reset", (event) => { event.preventDefault(); clear(); save(); });
  document.getElementById("claims").addEventListener("click", (event) => {
    if (event.target.closest("summary")) setTimeout(save, 0);
  });
  openAll.addEventListener("click", () => {
    const open = openAll.getAttribute("aria-pressed") !== "true";
    for (const claim of claims) if (!claim.hidden || !open) claim.querySelector("details").open = open;
    openAll.setAttribute("aria-pressed", String(open));
    openAll.textContent = open ? "Close all" : "Open all";
    save();
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) { event.preventDefault(); words.focus(); }
    if (event.key === "Escape" && typing === words && words.value) { words.value = ""; apply(); save(); }
  });

  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = details.filter((one) => !one.open);
    for (const one of closed) one.open = true;
  });
  window.addEventListener("afterprint", () => { for (const one of closed) one.open = false; });
  window.addEventListener("hashchange", restore);
  restore();
})();
