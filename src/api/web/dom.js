// Elements. Text from outside goes in as text only: there is no way here to make markup of it.

/** An element `tag.class.class` with properties, `data-…`/`aria-…` attributes, listeners (`onclick`), and children. */
export function el(tag, attributes = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name);
  element.classList.add(...classes);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.includes("-") || key === "role" || key === "for" || key === "list") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Sets the text of an element only where it differs, so that what a reader selects or hears is left alone. */
export function setText(element, text) {
  const wanted = text ?? "";
  if (element.textContent !== wanted) element.textContent = wanted;
}

export function show(element, shown) {
  element.hidden = !shown;
}

/**
 * Keeps the children of `container` as `items` are, in their order. A child is made once by `make(item)`, which
 * returns `{ element, update(item) }`, and lives as long as its key: focus and open details stay.
 */
export function keyed(container, keyOf, make) {
  const known = new Map();
  return (items) => {
    const gone = new Set(known.keys());
    let place = container.firstElementChild;
    for (const item of items) {
      const key = keyOf(item);
      gone.delete(key);
      const child = known.get(key) ?? make(item);
      known.set(key, child);
      child.update(item);
      if (child.element === place) place = place.nextElementSibling;
      else container.insertBefore(child.element, place);
    }
    for (const key of gone) {
      const child = known.get(key);
      if (child.element.contains(document.activeElement)) focusNear(container, child.element);
      child.element.remove();
      known.delete(key);
    }
  };
}

/** What had the focus goes away: a neighbour's first button takes it, or the list itself. */
function focusNear(container, element) {
  const near = element.nextElementSibling ?? element.previousElementSibling;
  (near?.querySelector("button, a[href]") ?? container).focus();
}

/** A button that is busy while its work goes on; what goes wrong is told by `failed(error)`. */
export function actionButton(label, attributes, work, failed) {
  const button = el("button", { type: "button", ...attributes }, label);
  button.addEventListener("click", async () => {
    if (button.getAttribute("aria-busy") === "true") return;
    button.setAttribute("aria-busy", "true");
    try {
      await work();
    } catch (error) {
      failed(error);
    } finally {
      button.removeAttribute("aria-busy");
    }
  });
  return button;
}

const TOAST_MS = 8000;

/** A message for a while, read out by screen readers. `kind` is `error` or `done`. */
export function toast(text, kind = "error") {
  const box = document.getElementById("toasts");
  const close = el("button.quiet", { type: "button", "aria-label": "Close this message" }, "×");
  const message = el("p.toast", { "data-kind": kind }, el("span", {}, text), close);
  const end = () => message.remove();
  close.addEventListener("click", end);
  box.append(message);
  while (box.childElementCount > 4) box.firstElementChild.remove();
  setTimeout(end, kind === "error" ? 2 * TOAST_MS : TOAST_MS);
}
