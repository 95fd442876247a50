// Extras. Reading and the buttons work without this script.
"use strict";

// Shows times in the reader's time zone; the server gives UTC.
const today = () => new Date().toDateString();
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const calendar = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

function localise(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime()) || time.title) continue;
    time.title = time.textContent;
    time.textContent = at.toDateString() === today() ? clock.format(at) : calendar.format(at);
  }
}

// One menu is open at a time. Escape or a click elsewhere closes it.
function closeMenus(except) {
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (menu !== except) menu.open = false;
  }
}

document.addEventListener("click", (event) => closeMenus(event.target.closest("details.menu")));
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const menu = document.querySelector("details.menu[open]");
  if (menu) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});

// Says when the page is no longer live.
function tellLost(lost) {
  const note = document.getElementById("lost");
  if (note) note.hidden = !lost;
}

document.addEventListener("htmx:sseError", () => tellLost(true));
document.addEventListener("htmx:sseOpen", () => tellLost(false));
document.addEventListener("htmx:load", (event) => localise(event.detail.elt));
document.addEventListener("htmx:sendError", () => tellLost(true));

localise(document);
document.querySelector("form[data-press]")?.requestSubmit();
