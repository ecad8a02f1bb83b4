// A table whose rows carry a bar behind their name, as long as their share of the largest value.

/**
 * Shows `rows` (`{label, value, text, title?}`, `value` a number or BigInt, `text` what is read) in a `table.bars`.
 * Rows are kept and changed in place, so that bars move and a selection survives. `empty` is said when there are none.
 */
export function showBars(table, rows, empty) {
  const body = table.tBodies[0];
  if (rows.length === 0) {
    const row = document.createElement("tr");
    const cell = document.createElement("td");
    cell.className = "empty";
    cell.colSpan = 2;
    cell.textContent = empty;
    row.append(cell);
    body.replaceChildren(row);
    return;
  }
  if (body.querySelector(".empty")) {
    body.replaceChildren();
  }
  const largest = Math.max(1, ...rows.map((row) => Number(row.value)));
  while (body.rows.length > rows.length) {
    body.lastElementChild.remove();
  }
  while (body.rows.length < rows.length) {
    body.append(newRow(table.dataset.testid, body.rows.length));
  }
  rows.forEach((row, index) => {
    const [head, value] = body.rows[index].cells;
    const [bar, label] = head.children;
    bar.style.width = `${Math.max(0, (100 * Number(row.value)) / largest).toFixed(2)}%`;
    setText(label, row.label);
    label.title = row.title ?? row.label;
    setText(value, row.text);
  });
}

function newRow(name, index) {
  const row = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  const bar = document.createElement("span");
  bar.className = "bar";
  const label = document.createElement("span");
  label.className = "label";
  label.dataset.testid = `${name}-key-${index}`;
  head.append(bar, label);
  const value = document.createElement("td");
  value.dataset.testid = `${name}-value-${index}`;
  row.append(head, value);
  return row;
}

function setText(node, text) {
  if (node.textContent !== text) {
    node.textContent = text;
  }
}
