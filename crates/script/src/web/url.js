// `URL` and `URLSearchParams` of the URL standard, parsed by the gateway.
(function (host, web) {
  const PARTS = ['href', 'protocol', 'username', 'password', 'host', 'hostname', 'port', 'pathname', 'search', 'hash', 'origin'];

  class URLSearchParams {
    #pairs = [];
    #changed = () => {};

    constructor(init = '') {
      if (typeof init === 'object' && init !== null) {
        const pairs = typeof init[Symbol.iterator] === 'function' ? init : Object.entries(init);
        for (const pair of pairs) {
          const both = [...pair];
          if (both.length !== 2) throw new TypeError('a parameter must be a pair of name and value');
          this.#pairs.push([String(both[0]), String(both[1])]);
        }
        return;
      }
      this.#read(String(init));
    }

    #read(text) {
      const flat = host.queryParse(text.startsWith('?') ? text.slice(1) : text);
      this.#pairs = [];
      for (let at = 0; at < flat.length; at += 2) this.#pairs.push([flat[at], flat[at + 1]]);
    }

    get size() {
      return this.#pairs.length;
    }

    append(name, value) {
      this.#pairs.push([String(name), String(value)]);
      this.#changed();
    }

    delete(name, value) {
      const stays = ([other, held]) => other !== String(name) || (value !== undefined && held !== String(value));
      this.#pairs = this.#pairs.filter(stays);
      this.#changed();
    }

    get(name) {
      return this.#pairs.find(([other]) => other === String(name))?.[1] ?? null;
    }

    getAll(name) {
      return this.#pairs.filter(([other]) => other === String(name)).map((pair) => pair[1]);
    }

    has(name, value) {
      return this.#pairs.some(([other, held]) => other === String(name) && (value === undefined || held === String(value)));
    }

    set(name, value) {
      const at = this.#pairs.findIndex(([other]) => other === String(name));
      if (at < 0) return this.append(name, value);
      this.#pairs[at] = [String(name), String(value)];
      this.#pairs = this.#pairs.filter(([other], index) => index <= at || other !== String(name));
      this.#changed();
    }

    // Sorts by UTF-16 code units, stably, as in the standard.
    sort() {
      this.#pairs.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
      this.#changed();
    }

    forEach(callback, self) {
      for (const [name, value] of this) callback.call(self, value, name, this);
    }

    *entries() {
      for (const [name, value] of this.#pairs) yield [name, value];
    }

    *keys() {
      for (const pair of this.#pairs) yield pair[0];
    }

    *values() {
      for (const pair of this.#pairs) yield pair[1];
    }

    [Symbol.iterator]() {
      return this.entries();
    }

    toString() {
      return host.queryPrint(this.#pairs.flat());
    }

    get [Symbol.toStringTag]() {
      return 'URLSearchParams';
    }

    static of(text, changed) {
      const params = new URLSearchParams(text);
      params.#changed = changed;
      return params;
    }

    static read(params, text) {
      params.#read(text);
    }
  }
  const { of: paramsOf, read: readParams } = URLSearchParams;
  delete URLSearchParams.of;
  delete URLSearchParams.read;

  class URL {
    #parts;
    #params;

    constructor(url, base) {
      const parts = host.urlParse(String(url), base === undefined ? undefined : String(base));
      if (parts === undefined || parts === null) throw new TypeError(`Invalid URL: ${url}`);
      this.#parts = parts;
    }

    static canParse(url, base) {
      return (host.urlParse(String(url), base === undefined ? undefined : String(base)) ?? null) !== null;
    }

    static parse(url, base) {
      return URL.canParse(url, base) ? new URL(url, base) : null;
    }

    get searchParams() {
      const change = () => this.#set('search', this.#params.toString(), true);
      return (this.#params ??= paramsOf(this.search, change));
    }

    #set(part, value, isFromParams = false) {
      const parts = host.urlSet(this.#parts[0], part, String(value));
      if (part === 'href' && (parts ?? null) === null) throw new TypeError(`Invalid URL: ${value}`);
      this.#parts = parts ?? this.#parts;
      if (this.#params !== undefined && !isFromParams && (part === 'search' || part === 'href')) {
        readParams(this.#params, this.search);
      }
    }

    static {
      for (const [at, part] of PARTS.entries()) {
        const own = { get() { return this.#parts[at]; }, enumerable: true, configurable: true };
        if (part !== 'origin') own.set = function (value) { this.#set(part, value); };
        Object.defineProperty(URL.prototype, part, own);
      }
    }

    toString() {
      return this.href;
    }

    toJSON() {
      return this.href;
    }

    get [Symbol.toStringTag]() {
      return 'URL';
    }
  }

  globalThis.URLSearchParams = URLSearchParams;
  globalThis.URL = URL;
});
