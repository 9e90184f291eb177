// Code made of text, `new Function` and its like: the engine reads it as if there were always
// memory, so there is some while it reads.
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

  // Patterns: the engine reads each in one step, in a time that grows with the square of its
  // length.
  const MAX_PATTERN = 8192;
  const Native = RegExp;
  const proto = Native.prototype;
  const sourceOf = Object.getOwnPropertyDescriptor(proto, 'source').get;
  const bounded = (pattern) => {
    const text = String(pattern);
    if (text.length > MAX_PATTERN) {
      throw new RangeError(`a regular expression has ${MAX_PATTERN} characters at most, and this one ${text.length}`);
    }
    return text;
  };
  const isObject = (value) => (typeof value === 'object' && value !== null) || typeof value === 'function';
  // One that was read before is as long as may be.
  const isRead = (pattern) => {
    if (pattern === proto) return false;
    try {
      apply(sourceOf, pattern, []);
      return true;
    } catch {
      return false;
    }
  };
  // What the engine would make of these, with the text in hand: asked again, an object could
  // give another.
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
