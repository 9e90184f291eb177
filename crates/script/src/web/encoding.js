// Text encodings, base64 and `crypto`.
(function (host, web) {
  const bytesOf = (data) => {
    if (data instanceof ArrayBuffer) return new Uint8Array(data);
    if (ArrayBuffer.isView(data)) return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    throw new TypeError('expected an ArrayBuffer or a typed array');
  };

  globalThis.TextEncoder = class TextEncoder {
    get encoding() {
      return 'utf-8';
    }

    encode(text = '') {
      return new Uint8Array(host.utf8Encode(String(text)));
    }
  };

  globalThis.TextDecoder = class TextDecoder {
    #fatal;
    #ignoreBOM;

    constructor(label = 'utf-8', options = {}) {
      if (!/^\s*(utf-?8|unicode-1-1-utf-8)\s*$/i.test(label)) {
        throw new RangeError(`unsupported encoding \`${label}\`: use utf-8`);
      }
      this.#fatal = Boolean(options?.fatal);
      this.#ignoreBOM = Boolean(options?.ignoreBOM);
    }

    get encoding() {
      return 'utf-8';
    }

    get fatal() {
      return this.#fatal;
    }

    get ignoreBOM() {
      return this.#ignoreBOM;
    }

    decode(data, options) {
      if (options?.stream) throw new TypeError('TextDecoder cannot decode a part of a text (`stream`): join the bytes and decode them at once');
      if (data === undefined) return '';
      const text = host.utf8Decode(bytesOf(data), this.#fatal);
      if (text === undefined || text === null) throw new TypeError('invalid UTF-8');
      return !this.#ignoreBOM && text.startsWith('\uFEFF') ? text.slice(1) : text;
    }
  };

  const invalidCharacter = (message) => new DOMException(message, 'InvalidCharacterError');
  globalThis.btoa = (text) => {
    const encoded = host.btoa(String(text));
    if (encoded === undefined || encoded === null) throw invalidCharacter('btoa can encode only characters up to U+00FF');
    return encoded;
  };
  globalThis.atob = (text) => {
    const decoded = host.atob(String(text));
    if (decoded === undefined || decoded === null) throw invalidCharacter('invalid base64');
    return decoded;
  };

  const HASHES = ['SHA-1', 'SHA-256', 'SHA-384', 'SHA-512'];
  const hashOf = (algorithm) => {
    const name = String(algorithm?.name ?? algorithm).toUpperCase();
    if (!HASHES.includes(name)) {
      throw new DOMException(`unsupported hash \`${name}\`: use one of ${HASHES.join(', ')}`, 'NotSupportedError');
    }
    return name;
  };
  const requireHmac = (algorithm) => {
    const name = String(algorithm?.name ?? algorithm).toUpperCase();
    if (name !== 'HMAC') {
      throw new DOMException(`unsupported algorithm \`${name}\`: use HMAC`, 'NotSupportedError');
    }
  };

  class CryptoKey {
    #bytes;
    #hash;
    #usages;

    constructor(bytes, hash, usages) {
      this.#bytes = bytes;
      this.#hash = hash;
      this.#usages = usages;
    }

    get type() {
      return 'secret';
    }

    get extractable() {
      return false;
    }

    get algorithm() {
      return { name: 'HMAC', hash: { name: this.#hash }, length: this.#bytes.length * 8 };
    }

    get usages() {
      return [...this.#usages];
    }

    static use(key, usage) {
      if (!(key instanceof CryptoKey)) throw new TypeError('expected a CryptoKey');
      if (!key.#usages.includes(usage)) {
        throw new DOMException(`this key cannot be used for \`${usage}\`: add it to \`usages\` of importKey`, 'InvalidAccessError');
      }
      return [key.#hash, key.#bytes];
    }
  }
  const { use } = CryptoKey;
  delete CryptoKey.use;

  const subtle = {
    async digest(algorithm, data) {
      return host.digest(hashOf(algorithm), bytesOf(data));
    },

    async importKey(format, data, algorithm, extractable, usages) {
      if (format !== 'raw') throw new DOMException('unsupported key format: use `raw`', 'NotSupportedError');
      requireHmac(algorithm);
      const unknown = [...usages].find((usage) => usage !== 'sign' && usage !== 'verify');
      if (unknown !== undefined) throw new SyntaxError(`an HMAC key cannot be used for \`${unknown}\``);
      return new CryptoKey(bytesOf(data).slice(), hashOf(algorithm.hash), [...usages]);
    },

    async sign(algorithm, key, data) {
      requireHmac(algorithm);
      return host.hmac(...use(key, 'sign'), bytesOf(data));
    },

    async verify(algorithm, key, signature, data) {
      requireHmac(algorithm);
      return host.hmacVerify(...use(key, 'verify'), bytesOf(signature), bytesOf(data));
    },
  };

  const MAX_RANDOM_BYTES = 65536;
  globalThis.CryptoKey = CryptoKey;
  globalThis.crypto = {
    subtle,

    getRandomValues(array) {
      if (!ArrayBuffer.isView(array) || array instanceof Float32Array || array instanceof Float64Array || array instanceof DataView) {
        throw new DOMException('getRandomValues needs an array of integers', 'TypeMismatchError');
      }
      if (array.byteLength > MAX_RANDOM_BYTES) {
        throw new DOMException(`getRandomValues can fill at most ${MAX_RANDOM_BYTES} bytes`, 'QuotaExceededError');
      }
      bytesOf(array).set(new Uint8Array(host.random(array.byteLength)));
      return array;
    },

    randomUUID() {
      const bytes = new Uint8Array(host.random(16));
      bytes[6] = (bytes[6] & 0x0f) | 0x40;
      bytes[8] = (bytes[8] & 0x3f) | 0x80;
      const text = [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('');
      return text.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
    },
  };
  web.bytes = bytesOf;
});
