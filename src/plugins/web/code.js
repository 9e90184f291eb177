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
});
