// What other windows buy, shown in this one.
//
// The page says from which position of the event log it was made (data-position); the stream goes on
// from there, so nothing between page and stream is missed. Events carry new values and a version:
// hearing one twice, or two in the wrong order, does no harm. All windows of a browser share one
// stream, and sidearm.js brings it back whenever it is lost.

import { subscribe } from "sidearm";

const page = document.body;
const words = JSON.parse(document.getElementById("live-words").textContent);
const state = document.getElementById("live-state");
const feed = document.getElementById("sold");
const saleTemplate = document.getElementById("sale");
const clock = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

const FEED_LENGTH = 8;
const PATIENCE = 4000; // ms: a reconnection that is quicker than this is nobody's business
const RETRY = 3000; // ms, and up to as much again, so that not all windows come back at once

let position = page.dataset.position;
let worrying = 0;
let refreshing = 0;

function follow() {
  const url = new URL(page.dataset.stream, location.href);
  if (position) url.searchParams.set("last_event_id", position);
  subscribe(url, {
    stock: news(showStock),
    sold: news(showSale),
    paid: news(showPaid),
    "sidearm:gap": news(refresh), // the log does not reach back to our position
    "sidearm:status": follows,
  });
}

function news(act) {
  return (event) => {
    position = event.lastEventId || position;
    act(JSON.parse(event.data));
  };
}

function follows({ state }) {
  if (state === "open") return show("live");
  worrying ||= setTimeout(show, PATIENCE, "offline");
  // Somebody has logged out, here or elsewhere; what a stranger may hear goes on.
  if (state === "ended") setTimeout(follow, soon());
}

function soon() {
  return RETRY * (1 + Math.random());
}

function show(name) {
  clearTimeout(worrying);
  worrying = 0;
  if (state.dataset.state === name) return;
  state.hidden = false;
  state.dataset.state = name;
  state.textContent = name === "live" ? "Live" : "Reconnecting";
}

// After a gap: ask how things are now, until somebody answers.
async function refresh() {
  clearTimeout(refreshing);
  const url = new URL(page.dataset.now, location.href);
  for (const id of new Set(shown("[data-stock-of]").map((element) => element.dataset.stockOf))) {
    url.searchParams.append("id", id);
  }
  try {
    const answer = await fetch(url);
    if (!answer.ok) throw new Error(`${answer.status} from ${url.pathname}`);
    const now = await answer.json();
    now.stock.forEach(showStock);
    now.sold.forEach(showSale);
    now.paid.forEach(showPaid);
  } catch {
    refreshing = setTimeout(refresh, soon());
  }
}

function shown(selector) {
  return [...document.querySelectorAll(selector)];
}

function showStock({ id, stock, version }) {
  for (const element of shown(`[data-stock-of="${id}"]`)) {
    if (Number(element.dataset.version) >= version) continue; // older news than what is shown
    const level = stock <= 0 ? "none" : stock <= words.low ? "low" : "plenty";
    element.dataset.version = version;
    element.dataset.level = level;
    element.textContent = words.stock[level].replace("{n}", stock);
    blink(element);
  }
  for (const button of shown(`[data-buy-of="${id}"]`)) button.disabled = stock <= 0;
}

function showSale({ id, product, slug, quantity, at }) {
  const known = [...feed.children].map((item) => Number(item.dataset.sale));
  if (known.includes(id)) return;
  const item = saleTemplate.content.firstElementChild.cloneNode(true);
  const link = item.querySelector("a");
  link.href = link.getAttribute("href").replace("-slug-", encodeURIComponent(slug));
  item.dataset.sale = id;
  item.querySelector(".sale-count").textContent = quantity;
  item.querySelector(".sale-name").textContent = product;
  item.querySelector("time").dateTime = at;
  feed.querySelector(".feed-empty")?.remove();
  const older = [...feed.children].find((other) => Number(other.dataset.sale) < id);
  feed.insertBefore(item, older ?? null);
  while (feed.children.length > FEED_LENGTH) feed.lastElementChild.remove();
  tellTimes();
  blink(item);
}

function showPaid({ order }) {
  for (const element of shown(`[data-paid-of="${CSS.escape(order)}"]`)) {
    element.textContent = "Paid";
    blink(element);
  }
}

function blink(element) {
  element.classList.remove("fresh");
  void element.offsetWidth; // lets the animation begin anew
  element.classList.add("fresh");
}

function tellTimes() {
  for (const time of feed.querySelectorAll("time")) {
    const minutes = Math.round((Date.parse(time.dateTime) - Date.now()) / 60000);
    time.textContent =
      minutes >= 0 ? "just now"
      : minutes > -60 ? clock.format(minutes, "minute")
      : minutes > -60 * 24 ? clock.format(Math.round(minutes / 60), "hour")
      : clock.format(Math.round(minutes / 60 / 24), "day");
  }
}

setInterval(tellTimes, 30_000);
tellTimes();
follow();
