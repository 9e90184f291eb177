// Keeps the status page up to date, and sends its forms without leaving it.
'use strict';

const notice = document.getElementById('notice');
const live = document.getElementById('live');
const main = document.querySelector('main[data-stream]');

/** While the pointer is down nothing is replaced: a click needs the same button at its end. */
let isHeld = false;
const waiting = new Map();
/** The sections as they were put in last. */
const shown = new Map();

/** Replaces the content of a section, and keeps focus, open details and scrolled tables. */
function replace(id, html) {
  const section = document.getElementById(id);
  if (!section || shown.get(id) === html) return;
  const selection = getSelection();
  const isSelecting = selection && !selection.isCollapsed && section.contains(selection.anchorNode);
  if (isHeld || isSelecting) {
    waiting.set(id, html);
    return;
  }
  waiting.delete(id);
  const keyed = (key) => [...section.querySelectorAll('[data-key]')].find((element) => element.dataset.key === key);
  const active = section.contains(document.activeElement) ? document.activeElement : null;
  const focused = (active?.closest('[data-key]') ?? active?.parentElement?.closest('[data-key]'))?.dataset.key;
  const isSummary = active?.tagName === 'SUMMARY';
  const open = [...section.querySelectorAll('details[open][data-key]')].map((details) => details.dataset.key);
  const scrolled = [...section.querySelectorAll('.wide')].map((box) => box.scrollLeft);
  section.innerHTML = html;
  shown.set(id, html);
  section.hidden = html === '';
  for (const key of open) keyed(key)?.setAttribute('open', '');
  section.querySelectorAll('.wide').forEach((box, index) => {
    box.scrollLeft = scrolled[index] ?? 0;
  });
  if (focused) {
    const element = keyed(focused);
    (isSummary ? element?.querySelector('summary') : element)?.focus({ preventScroll: true });
  }
}

function flush() {
  for (const [id, html] of [...waiting]) replace(id, html);
}

document.addEventListener('pointerdown', () => {
  isHeld = true;
});
for (const end of ['pointerup', 'pointercancel']) {
  document.addEventListener(end, () =>
    // The click comes after this.
    setTimeout(() => {
      isHeld = false;
      flush();
    }, 50),
  );
}
document.addEventListener('selectionchange', () => {
  if (getSelection()?.isCollapsed) flush();
});

function say(text) {
  notice.textContent = text;
  notice.className = 'bad';
  notice.hidden = false;
}

/** Takes notice and sections from a page that a form led to. */
function take(html) {
  const page = new DOMParser().parseFromString(html, 'text/html');
  const result = page.getElementById('notice');
  if (!result) {
    location.assign('/login');
    return;
  }
  notice.className = '';
  notice.innerHTML = result.innerHTML;
  notice.hidden = result.hidden;
  for (const section of page.querySelectorAll('[data-live]')) replace(section.id, section.innerHTML);
  notice.scrollIntoView({ block: 'nearest' });
}

document.addEventListener('submit', async (event) => {
  const form = event.target;
  if (form.method !== 'post' || 'plain' in form.dataset || !notice) return;
  event.preventDefault();
  const body = new URLSearchParams(new FormData(form, event.submitter));
  const all = body.get('kind') === 'all' && form.action.endsWith('/purge');
  if (all && !confirm('Purge everything that is stored?')) return;
  if (event.submitter) event.submitter.disabled = true;
  try {
    const response = await fetch(form.action, { method: 'POST', body, headers: { accept: 'text/html' } });
    take(await response.text());
  } catch {
    say('The gateway could not be reached, so it is not known whether this was done: try again.');
  } finally {
    if (event.submitter) event.submitter.disabled = false;
  }
});

const tail = document.querySelector('form[data-tail]');
const requests = document.getElementById('requests');
const MAX_REQUESTS = 100;

/** Makes the row of a request, as the server makes those that the page begins with. */
function requestRow(request) {
  const row = document.createElement('tr');
  const status = request.status || 499;
  const why = [request.reason, request.cache, request.cache_why].filter(Boolean).join(' ');
  const cells = [
    [request.time.slice(11, 23)],
    [status, status >= 500 ? 'number bad' : 'number'],
    [`${request.method} ${request.host}${request.path}`, 'target'],
    [request.route ?? '–'],
    [request.total_ms.toFixed(1), 'number'],
    [why],
    [request.client],
    [request.backend ?? ''],
  ];
  for (const [text, style] of cells) {
    const cell = row.insertCell();
    cell.textContent = text;
    if (style) cell.className = style;
  }
  return row;
}

tail?.addEventListener('submit', (event) => {
  event.preventDefault();
  source?.close();
  follow();
});

let source;

function follow() {
  const query = new URLSearchParams([...new FormData(tail)].filter(([, value]) => value.trim() !== ''));
  query.set('n', MAX_REQUESTS / 2);
  source = new EventSource(`${main.dataset.stream}?${query}`);
  source.addEventListener('requests', ({ data }) => {
    requests.prepend(...JSON.parse(data).reverse().map(requestRow));
    while (requests.rows.length > MAX_REQUESTS) requests.deleteRow(-1);
  });
  const own = source;
  source.addEventListener('open', () => {
    // The stream begins with the latest ones again.
    requests.replaceChildren();
    live.textContent = 'live';
    live.className = 'good';
  });
  source.addEventListener('section', ({ data }) => {
    const { id, html } = JSON.parse(data);
    replace(id, html);
  });
  source.addEventListener('error', async () => {
    if (own !== source) return;
    live.textContent = 'not connected';
    live.className = 'bad';
    // The browser connects again by itself, unless it got a refusal.
    if (source.readyState !== EventSource.CLOSED) return;
    try {
      const response = await fetch('/status', { headers: { accept: 'text/html' } });
      if (new URL(response.url).pathname === '/login') {
        location.assign('/login?why=session_missing');
        return;
      }
      take(await response.text());
    } catch {
      // Stopped: it may come back.
    }
    setTimeout(() => {
      if (own === source) follow();
    }, 5000);
  });
}

if (main) follow();
// A link for one use.
document.querySelector('form[data-auto]')?.submit();
