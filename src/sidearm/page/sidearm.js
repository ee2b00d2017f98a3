// @ts-check
// One stream for all tabs of a browser, read by fetch, resumed by its ids.
//
// The tab that holds the Web Lock leads: it reads the stream and passes each frame on by a
// BroadcastChannel, with its position before (b) and after (p) the frame, and that of the last event
// before it (m). A tab whose own position is behind m has missed something, whatever the reason: it
// asks for that by a short request of its own, while what comes meanwhile waits. When the leader goes,
// the browser gives the lock to another tab, which resumes from its own position.

/**
 * @typedef {{ type: string, data?: string, id: string, own: boolean }} Frame
 *   One block of lines: without data it is no event; own: the id is its own, not an earlier one's.
 * @typedef {{ state: "open" | "waiting" | "refused" | "ended", status: number, wait?: number }} Status
 *   How the stream is: status is that of HTTP, 0 without an answer; wait: ms until the next attempt.
 * @typedef {{ b: string, m: string, p: string, f?: Frame }} Told
 * @typedef {{ close(): void, reconnect(): void }} Subscription
 */

const GAP = "sidearm:gap";

/**
 * Read text/event-stream (HTML 9.2.6) in pieces of any size.
 * @param {(frame: Frame) => void} frame Called at each blank line.
 * @param {string} [id] The last event id so far.
 */
export function createParser(frame, id = "") {
  let rest = "", type = "", own = false, cr = false;
  /** @type {string | undefined} */
  let data;
  const parser = {
    /** @type {number | undefined} */
    retry: undefined,
    /** @param {string} text */
    feed(text) {
      if (!text) return;
      const lines = (rest + (cr && text[0] === "\n" ? text.slice(1) : text)).split(/\r\n?|\n/);
      cr = text.endsWith("\r");
      rest = lines.pop() || "";
      for (const line of lines) {
        if (!line) {
          if (own || data !== undefined) frame({ type: type || "message", data, id, own });
          type = "";
          data = undefined;
          own = false;
          continue;
        }
        const [name] = line.split(":", 1);
        const value = line.slice(name.length + 1).replace(/^ /, "");
        if (name === "data") data = data === undefined ? value : `${data}\n${value}`;
        else if (name === "event") type = value;
        else if (name === "id" && !value.includes("\0")) {
          id = value;
          own = true;
        } else if (name === "retry" && /^\d+$/.test(value) && +value < 1e15) {
          parser.retry = +value;
        }
      }
    },
  };
  return parser;
}

/**
 * Whether a position is before another one. Of another epoch it always is, and an id that is none of
 * Sidearm's is before every other one.
 * @param {string} position
 * @param {string} other
 */
function isBehind(position, other) {
  if (!other || position === other) return false;
  const [epoch, time] = position.split("-");
  const [otherEpoch, otherTime] = other.split("-");
  return epoch !== otherEpoch || !otherTime || time?.padStart(16) < otherTime.padStart(16);
}

/**
 * Follow a stream, on one connection with all other tabs of this browser that follow it.
 * @param {string | URL} url Its last_event_id, if it has one, is where to begin.
 * @param {Record<string, (event: any) => void>} handlers By type of event. Each gets a MessageEvent;
 *   "sidearm:status" gets a Status.
 * @returns {Subscription}
 */
export function subscribe(url, handlers) {
  const address = new URL(url, document.baseURI);
  const query = address.searchParams;
  let position = query.get("last_event_id") || "";
  if (query.has("last_event_id")) query.delete("last_event_id");
  let seen = position; // up to here the page was told
  let mark = position; // of the last event
  let retry = 3000; // ms
  let leading = false;
  let again = false;
  let wake = () => {};
  let look = /** @type {() => unknown} */ (() => {});
  let timer = 0;
  /** @type {Status | undefined} */
  let status;
  /** @type {Told[] | undefined} */
  let queue;
  /** @type {BroadcastChannel | undefined} */
  let channel;
  /** @typedef {AbortController | undefined} Going */
  let running = /** @type {Going} */ (undefined);
  let connection = /** @type {Going} */ (undefined);
  let catching = /** @type {Going} */ (undefined);
  const closed = new AbortController();

  /** @param {string} type @param {any} event */
  function emit(type, event) {
    if (closed.signal.aborted || !Object.hasOwn(handlers, type)) return;
    try {
      handlers[type](event);
    } catch (error) {
      reportError(error);
    }
  }

  /** @param {any} message */
  function post(message) {
    channel?.postMessage(message);
  }

  /** @param {number} [ms] @param {() => void} [act] What a tab that follows does then. */
  function later(ms, act = () => {}) {
    clearTimeout(timer);
    if (ms && !leading) timer = setTimeout(act, ms);
  }

  /** @param {Status} now */
  function show(now) {
    // The leader may be a hidden tab, whose timers are slow.
    later(now.wait, () => post("wake"));
    if (status?.state !== now.state || status.status !== now.status) emit("sidearm:status", now);
    status = now;
    if (now.state === "ended") close();
  }

  /** @param {Status} now */
  function tell(now) {
    post(now);
    show(now);
  }

  function greet() {
    post({ b: position, m: mark, p: position });
  }

  /** @param {string} p @param {Frame} [f] */
  function apply(p, f) {
    if (leading || isBehind(position, p)) position = p;
    // The stream begins anew: older events may come, and its place comes after them.
    if (f?.type === GAP && !f.own) mark = seen = "";
    if ((!f || f.own) && (!mark || f?.data !== undefined)) mark = p;
    if (f?.data === undefined || (f.own && !isBehind(seen, f.id))) return;
    if (f.own) seen = f.id;
    emit(f.type, new MessageEvent(f.type, { data: f.data, lastEventId: f.id }));
  }

  /** @param {Told} told */
  function take(told) {
    later();
    if (queue) return queue.push(told);
    // Without a mark the stream was begun anew, at p.
    const need = told.m || (position && told.p);
    if (position !== told.b && isBehind(position, need)) catchUp(told, need);
    else apply(told.p, told.f);
  }

  /** @param {MessageEvent<any>} event */
  function receive({ data }) {
    if (data === "gone") return expect();
    if (data.state) return show(data);
    if (data.p !== undefined) return take(data);
    if (!leading) return;
    if (data === "restart") restart();
    else if (data === "wake" || status?.state === "refused") wake();
    if (data === "hello") {
      greet();
      if (status) post(status);
    }
  }

  /**
   * Read one answer to its end.
   * @param {AbortController} controller
   * @param {(flags: string) => void} opened
   * @param {(frame: Frame) => void} frame
   */
  async function read(controller, opened, frame) {
    let beat = 15, heard = Date.now(), code = 0, after = 0, refused = false;
    // By the clock, for timers stand still while the machine sleeps.
    const check = () => beat && Date.now() - heard > beat * 2500 && controller.abort();
    let watch = setInterval(check, 5000);
    if (leading) look = check;
    const parser = createParser(frame, position);
    try {
      const answer = await fetch(address, {
        cache: "no-store",
        credentials: "include",
        headers: { Accept: "text/event-stream", ...(position && { "Last-Event-ID": position }) },
        signal: controller.signal,
      });
      code = answer.status;
      const wait = answer.headers.get("Retry-After") || "";
      after = /^\d+$/.test(wait) ? +wait * 1000 : Date.parse(wait) - Date.now() || 0;
      if (code === 200 && /^text\/event-stream\b/i.test(answer.headers.get("Content-Type") || "")) {
        const flags = answer.headers.get("Sidearm-Stream") || "";
        beat = +(/heartbeat=([\d.]+)/.exec(flags) || [0, 0])[1];
        clearInterval(watch);
        watch = setInterval(check, beat * 500 || 1e9);
        opened(flags);
        const reader = /** @type {ReadableStream<BufferSource>} */ (answer.body)
          .pipeThrough(new TextDecoderStream()).getReader();
        for (let part; !(part = await reader.read()).done; parser.feed(part.value)) heard = Date.now();
      } else {
        // A log-in page in its place is as good as a 401.
        refused = answer.redirected || (code > 399 && code < 500 && ![408, 425, 429].includes(code));
        if (code === 200) code = refused ? 401 : 0;
        controller.abort();
      }
    } catch {
      if (code === 200) code = 0;
    }
    clearInterval(watch);
    retry = parser.retry ?? retry;
    return { code, after, refused };
  }

  /** @param {number} after @param {number} failures */
  function wait(after, failures) {
    const least = Math.max(after, Math.min(retry * 2 ** failures, Math.max(retry, 3e4)));
    return Math.min(least * (1 + Math.random() / 4), 864e5);
  }

  /** @param {number} [ms] */
  function pause(ms) {
    return new Promise((resolve) => {
      wake = () => resolve(0);
      if (ms !== undefined) setTimeout(wake, ms);
    });
  }

  /** @param {AbortController} me */
  async function lead(me) {
    if (me.signal.aborted) return;
    leading = true;
    later();
    catching = queue = undefined;
    greet();
    for (let failures = 0; !me.signal.aborted; ) {
      again = false;
      connection = new AbortController();
      const { code, after, refused } = await read(
        connection,
        () => tell({ state: "open", status: 200 }),
        (f) => {
          if (me.signal.aborted) return;
          const told = { b: position, m: mark, p: f.id, f };
          post(told);
          take(told);
        },
      );
      if (me.signal.aborted || again) continue;
      if (code === 204) return tell({ state: "ended", status: code });
      const ms = refused ? undefined : wait(after, failures);
      failures = code === 200 ? 0 : failures + 1;
      tell({ state: refused ? "refused" : "waiting", status: code, wait: ms });
      await pause(ms);
    }
  }

  /** @param {Told} told @param {string} need */
  async function catchUp(told, need) {
    const mine = (catching = new AbortController());
    queue = [told];
    // Whether more is to come of what only a newcomer gets; an id alone ends that.
    let more = false;
    const { code, after, refused } = await read(
      mine,
      (flags) => {
        more = !position && /replay|snapshot/.test(flags);
      },
      (f) => {
        if (catching !== mine) return;
        if (f.type === GAP) more = !f.own;
        // What else has no id of its own comes from the leader too.
        if (f.own || more) apply(f.id, f);
        if (f.own && f.data === undefined) more = false;
        if (!more && !isBehind(position, need)) mine.abort();
      },
    );
    if (catching !== mine) return; // it leads now, or has stopped
    if (code === 204) return show({ state: "ended", status: code });
    if (refused) {
      stop();
      return show({ state: "refused", status: code });
    }
    if (more || isBehind(position, need)) await pause(wait(after, 0));
    if (catching !== mine) return;
    const waiting = queue;
    catching = queue = undefined;
    waiting.forEach(take);
  }

  // The browser may give the lock to a tab at the moment in which it freezes it.
  function expect() {
    later(1000 + Math.random() * 500, () => {
      stop();
      start(true);
    });
  }

  function restart() {
    if (!running) return start();
    if (!leading) return post("restart");
    again = true;
    connection?.abort();
    wake();
  }

  /** @param {boolean} [steal] */
  function start(steal) {
    if (running || closed.signal.aborted) return;
    const me = (running = new AbortController());
    const name = `sidearm/1 ${address}`;
    if (!navigator.locks) return lead(me); // plain HTTP: each tab for itself
    channel = new BroadcastChannel(name);
    channel.onmessage = receive;
    post("hello");
    expect();
    // Freezing leaves no time to wait for the connection's end.
    const gone = new Promise((resolve) => (me.signal.onabort = resolve));
    navigator.locks
      .request(name, steal ? { steal } : { signal: me.signal }, () => Promise.race([lead(me), gone]))
      .catch(({ name }) => {
        if (me.signal.aborted) return;
        leading = false;
        stop();
        // Another tab took the lead; or else no page here may have locks.
        if (name === "AbortError") start();
        else lead((running = new AbortController()));
      });
  }

  // A page that is frozen, or kept for going back, must hold neither lock nor connection.
  function stop() {
    if (leading) post("gone");
    running?.abort();
    connection?.abort();
    catching?.abort();
    running = catching = queue = undefined;
    leading = false;
    channel?.close();
    channel = undefined;
    later();
    wake();
  }

  function close() {
    closed.abort();
    stop();
  }

  /** @param {EventTarget} target @param {string} type @param {(event: any) => void} act */
  function on(target, type, act) {
    target.addEventListener(type, act, { signal: closed.signal });
  }
  on(window, "pagehide", stop);
  on(window, "pageshow", () => start());
  on(document, "freeze", stop);
  on(document, "resume", () => start());
  on(window, "online", restart);
  on(document, "visibilitychange", () => {
    if (document.hidden) return;
    start();
    look();
    if (!leading) {
      post("hello");
      expect();
    } else if (status?.state === "refused") wake();
  });
  start();
  return { close, reconnect: restart };
}
