// What the pages do beyond links and forms. Without it they work all the same, and are not live.
"use strict";

// ---- times, in the reader's zone

const unit = (seconds) => {
  for (const [limit, size, name] of [[90, 1, "s"], [5400, 60, "min"], [129600, 3600, "h"]])
    if (seconds < limit) return `${Math.round(seconds / size)} ${name}`;
  const days = Math.round(seconds / 86400);
  return days === 1 ? "1 day" : `${days} days`;
};
const ago = (moment) => {
  const seconds = (Date.now() - moment) / 1000;
  if (Math.abs(seconds) < 5) return "now";
  return seconds > 0 ? `${unit(seconds)} ago` : `in ${unit(-seconds)}`;
};
const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const whole = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });

function showTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const moment = new Date(time.dateTime);
    if (Number.isNaN(moment.getTime())) continue;
    const text = "ago" in time.dataset ? ago(moment) : "zone" in time.dataset ? null : clock.format(moment);
    if (text !== null && time.textContent !== text) time.textContent = text;
    if (!time.dataset.seen) {
      time.dataset.seen = "1";
      time.title = `${whole.format(moment)} = ${time.title}`;
    }
  }
}

// ---- live pages: each part with an id and data-part is replaced when the server shows it otherwise

const isBusy = (part) =>
  part.contains(document.activeElement) && /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName) ||
  [...part.querySelectorAll("textarea, input[type=text], input[type=number], input:not([type])")].some((field) => field.value !== field.defaultValue) ||
  [...part.querySelectorAll("input[type=checkbox], input[type=radio]")].some((box) => box.checked !== box.defaultChecked);

function keepOpen(old, fresh) {
  const nameless = [...fresh.querySelectorAll("details:not([id])")];
  for (const details of old.querySelectorAll("details")) {
    const same = details.id ? fresh.querySelector(`#${CSS.escape(details.id)}`) : nameless.shift();
    if (same) same.open = details.open;
  }
}

// Times that only say how long ago are no news.
const shownOf = (part) => part.innerHTML.replace(/(<time [^>]*>)[^<]*/g, "$1");

// The rows of a list come and go by their id; one that is being worked on stays, and says that it is gone.
function syncRows(list, fresh) {
  let last = null;
  for (const row of [...fresh.children]) {
    const here = document.getElementById(row.id);
    if (!here) {
      const added = document.importNode(row, true);
      if (added.dataset.part !== undefined) added.dataset.shown = shownOf(row);
      last ? last.after(added) : list.prepend(added);
      showTimes(added);
      last = added;
    } else last = here;
  }
  for (const row of [...list.children]) {
    if (fresh.querySelector(`#${CSS.escape(row.id)}`)) continue;
    if (!isBusy(row)) row.remove();
    else if (!row.classList.contains("is-gone")) {
      row.classList.add("is-gone");
      const word = document.createElement("p");
      word.className = "said bad";
      word.setAttribute("role", "status");
      const link = document.createElement("a");
      link.href = row.dataset.see;
      link.textContent = "See what became of it";
      word.append(`${row.dataset.gone} `, link);
      row.prepend(word);
    }
  }
}

let asking = false, again = false;
async function refresh() {
  if (asking) { again = true; return; }
  asking = true;
  try {
    const answer = await fetch(location.href, { headers: { "X-Horarium-Live": "1" }, redirect: "manual" });
    if (!answer.ok) return say(answer.type === "opaqueredirect" ? "You are signed out: load the page again." : "The page is not live: the gateway does not answer.");
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const list of document.querySelectorAll("[data-keyed]")) {
      const next = fresh.getElementById(list.id);
      if (next) syncRows(list, next);
    }
    for (const part of document.querySelectorAll("[data-part]")) {
      const next = fresh.getElementById(part.id);
      if (!next || isBusy(part)) continue;
      const shown = shownOf(next);
      if (part.dataset.shown === shown) continue;
      const focused = part.contains(document.activeElement) ? document.activeElement.id : null;
      const scrolled = [part.scrollLeft, part.scrollTop];
      keepOpen(part, next);
      part.replaceChildren(...next.childNodes);
      part.dataset.shown = shown;
      [part.scrollLeft, part.scrollTop] = scrolled;
      showTimes(part);
      if (focused) document.getElementById(focused)?.focus();
    }
    if (fresh.title) document.title = fresh.title;
    if (!fresh.getElementById("main")?.dataset.live) delete document.getElementById("main").dataset.live;
    document.dispatchEvent(new CustomEvent("refreshed"));
    say("");
  } catch {
    say("The page is not live: the gateway does not answer.");
  } finally {
    asking = false;
    if (again) { again = false; setTimeout(refresh, 250); }
  }
}

function say(text) {
  const line = document.querySelector("[data-live-state]");
  if (line.textContent === text) return;
  line.textContent = text;
  line.classList.toggle("sr", !text);
  line.classList.toggle("said", Boolean(text));
  line.classList.toggle("bad", Boolean(text));
}

function live(main) {
  // At most so often, however fast things come: a timer that is set anew by each would never end while a model writes.
  const within = (wait) => () => { live.timer ??= setTimeout(() => { live.timer = null; refresh(); }, wait); };
  const soon = within(250), later = within(700);
  if (main.dataset.live) {
    let stream;
    const follow = () => {
      stream = new EventSource(main.dataset.live);
      for (const kind of ["status", "step.begun", "step.unknown", "step.settled", "end"]) stream.addEventListener(kind, soon);
      stream.addEventListener("text", later);
      stream.addEventListener("end", () => stream.close());
      stream.addEventListener("open", soon);
      stream.addEventListener("error", () => {
        if (stream.readyState === EventSource.OPEN) return;
        say("Not live at the moment: connecting again…");
        // After a refusal, as when there are too many, a browser does not try again by itself.
        if (stream.readyState === EventSource.CLOSED) setTimeout(async () => {
          await refresh();
          if (main.dataset.live) follow(); else say("");
        }, 10_000);
      });
    };
    follow();
    addEventListener("pagehide", () => stream.close());
  }
  if (main.dataset.refresh) setInterval(() => { if (!document.hidden) refresh(); }, 1000 * Number(main.dataset.refresh));
  document.addEventListener("visibilitychange", () => { if (!document.hidden && (main.dataset.refresh || main.dataset.live)) refresh(); });
}

// ---- lists: a box for all, and keys

function lists() {
  document.addEventListener("change", (event) => {
    const all = event.target.closest("[data-all]");
    if (!all) return;
    const of = all.dataset.of === undefined ? "" : `[data-tool="${CSS.escape(all.dataset.of)}"]`;
    for (const box of document.querySelectorAll(`input[type=checkbox][name="${CSS.escape(all.dataset.all)}"]${of}`)) box.checked = all.checked;
    document.dispatchEvent(new CustomEvent("chosen"));
  });
  const chosen = () => {
    for (const place of document.querySelectorAll("[data-chosen]")) {
      const number = document.querySelectorAll(`input[type=checkbox][name="${CSS.escape(place.dataset.chosen)}"]:checked`).length;
      place.textContent = number ? `${number} chosen` : "chosen";
    }
  };
  for (const event of ["chosen", "change", "refreshed"]) document.addEventListener(event, chosen);
  chosen();
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("textarea, select, input:not([type=checkbox], [type=radio])");
    if (event.ctrlKey || event.metaKey || event.altKey || typing) return;
    const rows = [...document.querySelectorAll("[data-row]")];
    const at = rows.findIndex((row) => row.classList.contains("is-at"));
    if (event.key === "j" || event.key === "k") {
      const next = rows[Math.min(Math.max(at + (event.key === "j" ? 1 : -1), 0), rows.length - 1)];
      if (!next) return;
      rows[at]?.classList.remove("is-at");
      next.classList.add("is-at");
      next.scrollIntoView({ block: "nearest" });
      (next.querySelector("a, summary, button, input") ?? next).focus();
    } else if (event.key === "x" && at >= 0) {
      const box = rows[at].querySelector("input[type=checkbox]");
      if (box) { box.checked = !box.checked; document.dispatchEvent(new CustomEvent("chosen")); }
    } else if (/^[a-z]$/.test(event.key)) {
      // Of what is chosen, which stands before the rows; else of the row.
      const scope = document.querySelector("[data-row] input[type=checkbox]:checked") ? document : rows[at] ?? document;
      const wanted = scope.querySelector(`[data-key="${event.key}"]`);
      if (wanted) event.preventDefault(); // else the letter is typed into the field that it leads to
      wanted?.focus();
    } else if (event.key === "Enter" && at >= 0 && !event.target.closest("a, button, summary")) {
      rows[at].querySelector("a")?.click();
    }
  });
}

// ---- small things

function theme() {
  const button = document.querySelector("[data-theme-switch]");
  button?.addEventListener("click", () => {
    const isDark = document.documentElement.dataset.theme === "dark" ||
      (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
    document.documentElement.dataset.theme = isDark ? "light" : "dark";
    try { localStorage.setItem("theme", document.documentElement.dataset.theme); } catch { /* it lasts for this page */ }
  });
}

function ownZone() {
  const zones = document.querySelector("[data-own-zone]");
  const own = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (!zones || !own || zones.querySelector(`option[value="${CSS.escape(own)}"]`)) return;
  zones.prepend(Object.assign(document.createElement("option"), { value: own, label: "yours" }));
}

function copying() {
  for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", async () => {
    const field = document.getElementById(button.dataset.copy);
    field.select();
    try { await navigator.clipboard.writeText(field.value); button.textContent = "Copied"; } catch { button.textContent = "Press Ctrl-C"; }
  });
}

try {
  const kept = localStorage.getItem("theme");
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
} catch { /* without storage it is as the system says */ }

for (const part of document.querySelectorAll("[data-part]")) part.dataset.shown = shownOf(part);
showTimes(document);
setInterval(() => showTimes(document), 5000);
theme();
lists();
ownZone();
copying();
live(document.getElementById("main"));
document.addEventListener("submit", (event) => {
  if (event.submitter?.dataset.sure && !confirm(event.submitter.dataset.sure)) return event.preventDefault();
  if (event.target.method === "post") setTimeout(() => { for (const button of event.target.querySelectorAll("button")) button.disabled = true; });
});
