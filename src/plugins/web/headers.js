// `Headers` of the Fetch standard: a list of one's own, or a view of a head that the gateway
// has.
(function (host, web) {
  const NAME = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
  const nameOf = (name) => {
    const text = String(name);
    if (!NAME.test(text)) throw new TypeError(`\`${text}\` is no name of a header`);
    return text.toLowerCase();
  };
  const valueOf = (value) => {
    const text = String(value).replace(/^[\t\n\r ]+|[\t\n\r ]+$/g, '');
    if (/[\0\r\n]/.test(text)) throw new TypeError('this is no value of a header');
    return text;
  };

  class Headers {
    #list = [];

    constructor(init) {
      if (init === undefined || init === null) return;
      if (typeof init !== 'object') throw new TypeError('Headers are made of an object or pairs');
      const pairs = typeof init[Symbol.iterator] === 'function' ? init : Object.entries(init);
      for (const pair of pairs) {
        const both = [...pair];
        if (both.length !== 2) throw new TypeError('a header is a name and a value');
        this.append(both[0], both[1]);
      }
    }

    append(name, value) {
      this.#list.push([nameOf(name), valueOf(value)]);
    }

    delete(name) {
      const wanted = nameOf(name);
      this.#list = this.#list.filter(([known]) => known !== wanted);
    }

    get(name) {
      const wanted = nameOf(name);
      const values = this.#list.filter(([known]) => known === wanted);
      return values.length === 0 ? null : values.map((pair) => pair[1]).join(', ');
    }

    has(name) {
      return this.get(name) !== null;
    }

    set(name, value) {
      const wanted = nameOf(name);
      const text = valueOf(value);
      const at = this.#list.findIndex(([known]) => known === wanted);
      if (at < 0) {
        this.#list.push([wanted, text]);
        return;
      }
      this.#list[at] = [wanted, text];
      this.#list = this.#list.filter(([known], index) => index <= at || known !== wanted);
    }

    getSetCookie() {
      return web.pairsOf(this)
        .filter(([name]) => name === 'set-cookie')
        .map((pair) => pair[1]);
    }

    forEach(callback, self) {
      for (const [name, value] of this) callback.call(self, value, name, this);
    }

    // Sorted and joined, apart from Set-Cookie, as the standard has it.
    *entries() {
      const pairs = web.pairsOf(this);
      const names = [...new Set(pairs.map(([name]) => name))].sort();
      for (const name of names) {
        const values = pairs.filter((pair) => pair[0] === name).map((pair) => pair[1]);
        if (name === 'set-cookie') yield* values.map((value) => [name, value]);
        else yield [name, values.join(', ')];
      }
    }

    *keys() {
      for (const pair of this.entries()) yield pair[0];
    }

    *values() {
      for (const pair of this.entries()) yield pair[1];
    }

    [Symbol.iterator]() {
      return this.entries();
    }

    get [Symbol.toStringTag]() {
      return 'Headers';
    }

    static list(headers) {
      return headers.#list;
    }
  }
  const listOf = Headers.list;
  delete Headers.list;

  // A head of the request under way; `which`: 0 of the request, 1 of the answer.
  class HeadHeaders extends Headers {
    #call;
    #which;

    constructor(call, which) {
      super();
      this.#call = call;
      this.#which = which;
    }

    append(name, value) {
      host.headerChange(this.#call, this.#which, 2, String(name), String(value));
    }

    delete(name) {
      host.headerChange(this.#call, this.#which, 0, String(name));
    }

    get(name) {
      return host.headerGet(this.#call, this.#which, String(name)) ?? null;
    }

    set(name, value) {
      host.headerChange(this.#call, this.#which, 1, String(name), String(value));
    }

    static pairs(headers) {
      if (!(#call in headers)) return undefined;
      const flat = host.headerAll(headers.#call, headers.#which);
      const pairs = [];
      for (let at = 0; at < flat.length; at += 2) pairs.push([flat[at], flat[at + 1]]);
      return pairs;
    }
  }
  const pairsOfHead = HeadHeaders.pairs;
  delete HeadHeaders.pairs;

  web.pairsOf = (headers) => pairsOfHead(headers) ?? listOf(headers);
  web.headersOf = (call, which) => new HeadHeaders(call, which);
  globalThis.Headers = Headers;
});
