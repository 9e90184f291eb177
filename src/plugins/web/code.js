// Code from strings, such as `new Function`: the engine parses it as if memory were
// unlimited, so some is reserved while it parses.
(function (host) {
  const { room } = host;
  const { apply, construct } = Reflect;
  const read = (how) => {
    room(true);
    try {
      return how();
    } finally {
      room(false);
    }
  };
  const reading = {
    apply: (target, self, texts) => read(() => apply(target, self, texts)),
    construct: (target, texts, made) => read(() => construct(target, texts, made)),
  };
  for (const kind of [() => {}, async () => {}, function* () {}, async function* () {}]) {
    const proto = Object.getPrototypeOf(kind);
    const own = Object.getOwnPropertyDescriptor(proto, 'constructor');
    Object.defineProperty(proto, 'constructor', { ...own, value: new Proxy(own.value, reading) });
  }
  globalThis.Function = Function.prototype.constructor;
  globalThis.eval = new Proxy(eval, reading);

  // Regular expressions: the engine parses each in one step, in time quadratic in its
  // length.
  const MAX_PATTERN = 8192;
  const Native = RegExp;
  const proto = Native.prototype;
  const sourceOf = Object.getOwnPropertyDescriptor(proto, 'source').get;
  const bounded = (pattern) => {
    const text = String(pattern);
    if (text.length > MAX_PATTERN) {
      throw new RangeError(`a regular expression can have at most ${MAX_PATTERN} characters, this one has ${text.length}`);
    }
    return text;
  };
  const isObject = (value) => (typeof value === 'object' && value !== null) || typeof value === 'function';
  // A RegExp that exists has passed the length check.
  const isRead = (pattern) => {
    if (pattern === proto) return false;
    try {
      apply(sourceOf, pattern, []);
      return true;
    } catch {
      return false;
    }
  };
  // Returns the arguments as the engine would see them, with the text read only once: read again,
  // an object could return another.
  const bothOf = (pattern, flags) => {
    if (pattern === undefined || (isObject(pattern) && isRead(pattern))) return [pattern, flags];
    if (isObject(pattern) && pattern[Symbol.match]) {
      return [bounded(pattern.source), flags === undefined ? pattern.flags : flags];
    }
    return [bounded(pattern), flags];
  };
  const own = new Proxy(Native, {
    apply: (target, self, [pattern, flags]) => {
      const isSame = flags === undefined && isObject(pattern) && isRead(pattern);
      if (isSame && pattern.constructor === own) return pattern;
      return construct(target, bothOf(pattern, flags), own);
    },
    construct: (target, [pattern, flags], made) => construct(target, bothOf(pattern, flags), made),
  });
  const put = (object, name, value) => {
    Object.defineProperty(object, name, { ...Object.getOwnPropertyDescriptor(object, name), value });
  };
  put(globalThis, 'RegExp', own);
  put(proto, 'constructor', own);
  const { compile } = proto;
  put(proto, 'compile', { compile(pattern, flags) { return apply(compile, this, bothOf(pattern, flags)); } }.compile);
  for (const [name, symbol] of [['match', Symbol.match], ['matchAll', Symbol.matchAll], ['search', Symbol.search]]) {
    const native = String.prototype[name];
    const method = {
      [name](pattern) {
        if (pattern === undefined || pattern === null || this === undefined || this === null) return apply(native, this, [pattern]);
        if (isObject(pattern)) {
          if (isRead(pattern)) return apply(native, this, [pattern]);
          const how = pattern[symbol];
          if (how !== undefined && how !== null) return apply(how, pattern, [this]);
        }
        return apply(native, this, [bounded(pattern)]);
      },
    };
    put(String.prototype, name, method[name]);
  }
});
