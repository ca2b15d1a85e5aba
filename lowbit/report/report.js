"use strict";
// Sort a table by a click on a column's heading: numbers by value, empty cells last, the first click upwards.
for (const table of document.querySelectorAll("table.sorts")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const keyed = [...table.tBodies[0].rows].map((row) => [row.cells[column].textContent.trim(), row]);
      const numeric = keyed.every(([text]) => text === "" || !Number.isNaN(parseFloat(text)));
      keyed.sort(([one], [two]) => {
        if (one === "" || two === "") return (one === "") - (two === "");
        const order = numeric ? parseFloat(one) - parseFloat(two) : one.localeCompare(two, "en", { numeric: true });
        return down ? -order : order;
      });
      table.tBodies[0].append(...keyed.map(([, row]) => row));
    });
  });
}
// Paper shows what is folded on the screen.
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  folded.forEach((one) => (one.open = true));
});
addEventListener("afterprint", () => folded.forEach((one) => (one.open = false)));
