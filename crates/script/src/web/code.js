// Code from strings, such as `new Function`. The engine parses it as if memory were unlimited, so
// some is reserved while it parses.
(function (host) {
  const { setParsing } = host;
  const { apply, construct } = Reflect;
  const withReservedMemory = (parse) => {
    setParsing(true);
    try {
      return parse();
    } finally {
      setParsing(false);
    }
  };
  const traps = {
    apply: (target, self, args) => withReservedMemory(() => apply(target, self, args)),
    construct: (target, args, newTarget) => withReservedMemory(() => construct(target, args, newTarget)),
  };
  for (const example of [() => {}, async () => {}, function* () {}, async function* () {}]) {
    const proto = Object.getPrototypeOf(example);
    const native = Object.getOwnPropertyDescriptor(proto, 'constructor');
    Object.defineProperty(proto, 'constructor', { ...native, value: new Proxy(native.value, traps) });
  }
  globalThis.Function = Function.prototype.constructor;
  globalThis.eval = new Proxy(eval, traps);

  // Length limit of a regular expression: the engine parses each in one step, in time quadratic in
  // its length.
  const MAX_PATTERN = 8192;
  const Native = RegExp;
  const proto = Native.prototype;
  const sourceOf = Object.getOwnPropertyDescriptor(proto, 'source').get;
  const withinLimit = (pattern) => {
    const text = String(pattern);
    if (text.length > MAX_PATTERN) {
      throw new RangeError(`a regular expression can have at most ${MAX_PATTERN} characters, and this one has ${text.length}`);
    }
    return text;
  };
  const isObject = (value) => (typeof value === 'object' && value !== null) || typeof value === 'function';
  // A RegExp that exists has passed the length check.
  const isCompiled = (pattern) => {
    if (pattern === proto) return false;
    try {
      apply(sourceOf, pattern, []);
      return true;
    } catch {
      return false;
    }
  };
  // Returns the arguments as the engine would see them. The text is read only once: an object could
  // return another text the second time.
  const checkedArguments = (pattern, flags) => {
    if (pattern === undefined || (isObject(pattern) && isCompiled(pattern))) return [pattern, flags];
    if (isObject(pattern) && pattern[Symbol.match]) {
      return [withinLimit(pattern.source), flags === undefined ? pattern.flags : flags];
    }
    return [withinLimit(pattern), flags];
  };
  const Checked = new Proxy(Native, {
    apply: (target, self, [pattern, flags]) => {
      const isSame = flags === undefined && isObject(pattern) && isCompiled(pattern);
      if (isSame && pattern.constructor === Checked) return pattern;
      return construct(target, checkedArguments(pattern, flags), Checked);
    },
    construct: (target, [pattern, flags], newTarget) => construct(target, checkedArguments(pattern, flags), newTarget),
  });
  const replace = (object, name, value) => {
    Object.defineProperty(object, name, { ...Object.getOwnPropertyDescriptor(object, name), value });
  };
  replace(globalThis, 'RegExp', Checked);
  replace(proto, 'constructor', Checked);
  const { compile } = proto;
  replace(proto, 'compile', { compile(pattern, flags) { return apply(compile, this, checkedArguments(pattern, flags)); } }.compile);
  for (const [name, symbol] of [['match', Symbol.match], ['matchAll', Symbol.matchAll], ['search', Symbol.search]]) {
    const native = String.prototype[name];
    const method = {
      [name](pattern) {
        if (pattern === undefined || pattern === null || this === undefined || this === null) return apply(native, this, [pattern]);
        if (isObject(pattern)) {
          if (isCompiled(pattern)) return apply(native, this, [pattern]);
          const own = pattern[symbol];
          if (own !== undefined && own !== null) return apply(own, pattern, [this]);
        }
        return apply(native, this, [withinLimit(pattern)]);
      },
    };
    replace(String.prototype, name, method[name]);
  }
});
