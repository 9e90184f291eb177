// Request bodies, and the part of `FormData` that URL-encoded forms need.
(function (host, web) {
  class FormData {
    #pairs = [];

    static of(pairs) {
      const form = new FormData();
      form.#pairs = pairs;
      return form;
    }

    append(name, value) {
      this.#pairs.push([String(name), String(value)]);
    }

    set(name, value) {
      const at = this.#pairs.findIndex(([other]) => other === String(name));
      if (at < 0) return this.append(name, value);
      this.#pairs = this.#pairs.filter(([other], index) => other !== String(name) || index === at);
      this.#pairs[at] = [String(name), String(value)];
    }

    delete(name) {
      this.#pairs = this.#pairs.filter(([other]) => other !== String(name));
    }

    get(name) {
      return this.#pairs.find(([other]) => other === String(name))?.[1] ?? null;
    }

    getAll(name) {
      return this.#pairs.filter(([other]) => other === String(name)).map(([, value]) => value);
    }

    has(name) {
      return this.#pairs.some(([other]) => other === String(name));
    }

    forEach(callback, self) {
      for (const [name, value] of this.#pairs) callback.call(self, value, name, this);
    }

    *keys() {
      for (const [name] of this.#pairs) yield name;
    }

    *values() {
      for (const [, value] of this.#pairs) yield value;
    }

    *entries() {
      for (const [name, value] of this.#pairs) yield [name, value];
    }

    [Symbol.iterator]() {
      return this.entries();
    }
  }
  const formOf = FormData.of;
  delete FormData.of;
  globalThis.FormData = FormData;

  // Returns the readers of a call's request body. It can be read once, as in the Fetch standard.
  web.bodyReader = (call, headers) => {
    let isUsed = false;
    const consume = (read) => {
      if (isUsed) throw new TypeError('the body of this request has already been read');
      const body = read(call);
      isUsed = host.hasBody(call);
      return body;
    };
    return {
      get isUsed() {
        return isUsed;
      },
      body: () => (host.hasBody(call) ? new Uint8Array(host.bodyBytes(call)) : null),
      text: () => consume(host.bodyText),
      arrayBuffer: () => consume(host.bodyBytes),
      formData() {
        const type = (headers().get('content-type') ?? '').split(';', 1)[0].trim().toLowerCase();
        if (type !== 'application/x-www-form-urlencoded') throw new TypeError('the body of this request is not a URL-encoded form');
        return formOf([...new URLSearchParams(consume(host.bodyText))]);
      },
    };
  };
});
