"use strict";
{
  // A link to something inside closed details opens them.
  const open = () => {
    for (let one = document.getElementById(location.hash.slice(1)); one; one = one.parentElement)
      if (one.tagName === "DETAILS") one.open = true;
    document.getElementById(location.hash.slice(1))?.scrollIntoView();
  };
  addEventListener("hashchange", open);
  addEventListener("load", open);

  // The table of all claims: rows with every chosen word stay.
  const form = document.getElementById("filter"), rows = [...document.querySelectorAll("#claims-table tbody tr")];
  for (const choice of form.querySelectorAll("select")) {
    const values = new Set(rows.map(row => row.dataset[choice.name]));
    for (const value of [...values].sort()) choice.append(new Option(value, value));
  }
  const apply = () => {
    const chosen = [...form.querySelectorAll("select")].filter(choice => choice.value);
    const words = form.elements.words.value.toLowerCase().split(/\s+/);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !(chosen.every(choice => row.dataset[choice.name] === choice.value)
        && words.every(word => text.includes(word)));
    }
    const shown = rows.filter(row => !row.hidden);
    const counts = ["supported", "contradicted", "undecided"].map(word =>
      `${shown.filter(row => row.dataset.verdict === word).length} ${word}`);
    document.getElementById("shown").textContent = `${shown.length} of ${rows.length} shown: ${counts.join(", ")}`;
  };
  form.addEventListener("input", apply);
  form.addEventListener("submit", event => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));
  apply();
}
