// `Headers` of the Fetch standard: a list in the engine, or a view of headers that the gateway
// holds.
(function (host, web) {
  const NAME = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
  const nameOf = (name) => {
    const text = String(name);
    if (!NAME.test(text)) throw new TypeError(`invalid header name \`${text}\``);
    return text.toLowerCase();
  };
  const valueOf = (value) => {
    const text = String(value).replace(/^[\t\n\r ]+|[\t\n\r ]+$/g, '');
    if (/[\0\r\n\u0100-\uffff]/.test(text)) throw new TypeError('invalid header value');
    return text;
  };

  // Several `Cookie` fields are one list (RFC 9113, 8.2.3), as in Node.js.
  const separatorOf = (name) => (name === 'cookie' ? '; ' : ', ');

  // Argument that makes `Headers` a view of the current exchange, and the view's number: twice the
  // number of its call, plus 1 for the headers of the response.
  const VIEW = Symbol('view');
  let viewNumber = 0;

  const { headerGet, headerChange } = host;

  class Headers {
    // Pairs, or the number of a view. One field, since each costs as much as reading a header.
    #list;

    constructor(init) {
      if (init === VIEW) {
        this.#list = viewNumber;
        return;
      }
      this.#list = [];
      if (init === undefined || init === null) return;
      if (typeof init !== 'object') throw new TypeError('Headers can be created from an object or pairs');
      const pairs = typeof init[Symbol.iterator] === 'function' ? init : Object.entries(init);
      for (const pair of pairs) {
        const both = [...pair];
        if (both.length !== 2) throw new TypeError('a header must be a pair of name and value');
        this.append(both[0], both[1]);
      }
    }

    append(name, value) {
      const list = this.#list;
      if (typeof list === 'number') headerChange(list, 2, name, value);
      else list.push([nameOf(name), valueOf(value)]);
    }

    delete(name) {
      if (typeof this.#list === 'number') return headerChange(this.#list, 0, name);
      const lowerName = nameOf(name);
      this.#list = this.#list.filter(([other]) => other !== lowerName);
    }

    get(name) {
      const list = this.#list;
      if (typeof list === 'number') return headerGet(list, name);
      const lowerName = nameOf(name);
      const values = list.filter(([other]) => other === lowerName);
      return values.length === 0 ? null : values.map((pair) => pair[1]).join(separatorOf(lowerName));
    }

    has(name) {
      return this.get(name) !== null;
    }

    set(name, value) {
      if (typeof this.#list === 'number') return headerChange(this.#list, 1, name, value);
      const lowerName = nameOf(name);
      const text = valueOf(value);
      const at = this.#list.findIndex(([other]) => other === lowerName);
      if (at < 0) {
        this.#list.push([lowerName, text]);
        return;
      }
      this.#list[at] = [lowerName, text];
      this.#list = this.#list.filter(([other], index) => index <= at || other !== lowerName);
    }

    getSetCookie() {
      return web.pairsOf(this)
        .filter(([name]) => name === 'set-cookie')
        .map((pair) => pair[1]);
    }

    forEach(callback, self) {
      for (const [name, value] of this) callback.call(self, value, name, this);
    }

    // Sorted and joined, except Set-Cookie, as in the standard.
    *entries() {
      const pairs = web.pairsOf(this);
      const names = [...new Set(pairs.map(([name]) => name))].sort();
      for (const name of names) {
        const values = pairs.filter((pair) => pair[0] === name).map((pair) => pair[1]);
        if (name === 'set-cookie') yield* values.map((value) => [name, value]);
        else yield [name, values.join(separatorOf(name))];
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

    static {
      web.callOfHeaders = (headers) => headers.#list >>> 1;
    }

    static pairs(headers) {
      const list = headers.#list;
      if (typeof list !== 'number') return list;
      const flat = host.headerAll(list);
      const pairs = [];
      for (let at = 0; at < flat.length; at += 2) pairs.push([flat[at], flat[at + 1]]);
      return pairs;
    }
  }
  web.pairsOf = Headers.pairs;
  delete Headers.pairs;

  web.headersOf = (call, which) => {
    viewNumber = call * 2 + which;
    return new Headers(VIEW);
  };
  globalThis.Headers = Headers;
});
