// What plugins find of the Web. The same runs in node, which is the measure: see `web.rs`.
const seen = [];
const note = (name, make) => {
  let value;
  try {
    value = make();
  } catch (error) {
    value = `${error.constructor.name === 'DOMException' ? error.name : error.constructor.name}`;
  }
  seen.push([name, value]);
};
const hex = (bytes) => [...new Uint8Array(bytes)].map((byte) => byte.toString(16).padStart(2, '0')).join('');

const PARTS = ['href', 'origin', 'protocol', 'username', 'password', 'host', 'hostname', 'port', 'pathname', 'search', 'hash'];
const URLS = [
  ['https://a.test'], ['HTTPS://Ü.Test:443/a/../b?c#d'], ['https://u:p@a.test:8443/%7Ea b?q=ü&x'], ['/x/./y', 'https://a.test/z/'],
  ['?q', 'https://a.test/z#h'], ['//b.test/x', 'https://a.test'], ['no'], ['https://'], ['data:text/plain,hi'], ['http://[::1]:80/'],
  ['https://a.test/a%2Fb;c=1'], ['../..', 'https://a.test/a/b/c/d'], ['http://1.2.3/'], ['https://a.test/\\x'], ['', 'https://a.test/q'],
];
for (const [url, base] of URLS) {
  note(`URL ${url} ${base}`, () => {
    const parsed = new URL(url, base);
    return PARTS.map((part) => parsed[part]);
  });
}
const SETS = [
  ['pathname', '/ü x'], ['search', 'a=b c'], ['search', ''], ['hash', 'x y'], ['port', '8443'], ['port', '443'], ['port', 'x'], ['host', 'b.test:1'],
  ['hostname', 'b.test'], ['protocol', 'http'], ['protocol', 'data'], ['username', 'ü'], ['href', 'https://c.test/'], ['href', 'no'],
];
for (const [part, value] of SETS) {
  note(`set ${part} ${value}`, () => {
    const url = new URL('https://a.test/x?y=1#z');
    url[part] = value;
    return [url.href, String(url.searchParams), JSON.stringify(url)];
  });
}
note('searchParams change the URL', () => {
  const url = new URL('https://a.test/?a=1&a=2&b=%20x+y');
  const { searchParams } = url;
  const all = [searchParams.getAll('a'), searchParams.get('b'), searchParams.get('none'), searchParams.size];
  searchParams.set('a', 'ü&');
  searchParams.append('c', '~*()');
  searchParams.delete('b');
  url.search = '?z=1&y=2';
  searchParams.sort();
  return [all, url.href, [...searchParams], searchParams.has('y', '2'), searchParams.has('y', '3')];
});
for (const init of ['a=1&b', '?x=%zz&&=', { a: 1, b: 'x y' }, [['a', 'b'], ['a', 'c']], [['a']], 'a+b=c%20d', '']) {
  note(`URLSearchParams ${JSON.stringify(init)}`, () => {
    const params = new URLSearchParams(init);
    return [String(params), [...params.keys()], [...params.values()]];
  });
}

note('Headers', () => {
  const headers = new Headers({ 'X-A': ' 1 ', b: '2' });
  headers.append('x-a', '3');
  headers.append('Set-Cookie', 'a=1');
  headers.append('set-cookie', 'b=2');
  headers.set('c', 'x');
  headers.delete('B');
  return [[...headers], headers.get('X-a'), headers.get('none'), headers.has('C'), headers.getSetCookie(), [...headers.keys()]];
});
for (const [name, value] of [['a b', 'x'], ['', 'x'], ['a', 'x\ny'], ['a', '\0'], ['ü', 'x'], ['a', 'ü'], ['a', 'ā'], ['a', '\ud800']]) {
  note(`Headers ${JSON.stringify([name, value])}`, () => [...new Headers([[name, value]])]);
}
note('Headers of a list of three', () => [...new Headers([['a', 'b', 'c']])]);

note('Response', () => {
  const response = new Response('x', { status: 201, headers: { a: 'b' } });
  return [response.status, response.ok, [...response.headers]];
});
note('Response.json', () => {
  const response = Response.json({ a: [1] }, { status: 404 });
  return [response.status, response.ok, [...response.headers]];
});
note('Response.redirect', () => {
  const response = Response.redirect('https://a.test/x', 308);
  return [response.status, [...response.headers]];
});
note('Response.redirect to other characters', () => Response.redirect('https://a.test/ü?q=a b').headers.get('location'));
for (const [body, status] of [['x', 204], [null, 204], ['x', 99], ['x', 600], [null, 304]]) {
  note(`Response ${body} ${status}`, () => new Response(body, { status }).status);
}
note('Response.redirect 200', () => Response.redirect('https://a.test/', 200).status);

const HALF = 'a\ud800b';
note('half a pair in a URL', () => [new URL(`https://a.test/${HALF}?${HALF}#${HALF}`).href, new URL(HALF, 'https://a.test').href]);
note('half a pair in a part of a URL', () => Object.assign(new URL('https://a.test/'), { pathname: HALF, search: HALF }).href);
note('half a pair in a query', () => [String(new URLSearchParams([[HALF, HALF]])), [...new URLSearchParams(`a=${HALF}`)]]);
note('half a pair in TextEncoder', () => hex(new TextEncoder().encode(HALF)));
note('half a pair in btoa', () => btoa(HALF));

note('TextEncoder', () => [...new TextEncoder().encode('aü€😀')]);
note('TextDecoder', () => new TextDecoder().decode(new Uint8Array([239, 187, 191, 97, 195, 188, 255])));
note('TextDecoder fatal', () => new TextDecoder('utf-8', { fatal: true }).decode(new Uint8Array([255])));
note('TextDecoder of another coding', () => new TextDecoder('no-such').encoding);
note('TextDecoder of a view', () => new TextDecoder().decode(new Uint8Array([97, 98, 99, 100]).subarray(1, 3)));
for (const text of ['', 'a', 'ab', 'abc', '\xff\x00', '€']) note(`btoa ${text}`, () => btoa(text));
for (const text of ['', 'YQ==', 'YQ', ' Y W I = ', 'YQ=', 'Y', '!', '/+8=']) note(`atob ${text}`, () => [...atob(text)].map((c) => c.charCodeAt(0)));

const BODIES = {
  text: 'ü', half: HALF, number: 5, boolean: false, none: null, undefined: undefined, form: new URLSearchParams({ a: 'b c' }),
  buffer: new Uint8Array([97, 98]).buffer, view: new Uint8Array([97, 98, 99]).subarray(1), words: new Uint16Array([0x6261]),
  data: new DataView(new Uint8Array([97, 98, 99]).buffer, 1, 1),
};

const later = async () => {
  for (const [name, body] of Object.entries(BODIES)) {
    const response = new Response(body);
    const bytes = hex(await new Response(body).arrayBuffer());
    seen.push([`a body of ${name}`, [[...response.headers], await response.text(), bytes]]);
  }
  const changed = new TextEncoder().encode('abc');
  const copied = new Response(changed);
  changed.fill(0);
  seen.push(['a body whose bytes change later', await copied.text()]);
  const data = new TextEncoder().encode('message');
  for (const hash of ['SHA-1', 'SHA-256', 'sha-384', { name: 'SHA-512' }]) {
    seen.push([`digest ${JSON.stringify(hash)}`, hex(await crypto.subtle.digest(hash, data))]);
  }
  for (const hash of ['SHA-1', 'SHA-256', 'SHA-384', 'SHA-512']) {
    const raw = new TextEncoder().encode('secret');
    const key = await crypto.subtle.importKey('raw', raw, { name: 'HMAC', hash }, false, ['sign', 'verify']);
    raw.fill(0);
    const tag = await crypto.subtle.sign('HMAC', key, data);
    const isRight = await crypto.subtle.verify('HMAC', key, tag, data);
    const isWrong = await crypto.subtle.verify('HMAC', key, new Uint8Array(tag.byteLength), data);
    seen.push([`HMAC ${hash}`, [hex(tag), isRight, isWrong, key.algorithm.name, key.algorithm.hash.name]]);
  }
  const only = await crypto.subtle.importKey('raw', data, { name: 'HMAC', hash: 'SHA-256' }, false, ['verify']);
  seen.push(['sign with a key to verify', await crypto.subtle.sign('HMAC', only, data).catch((error) => error.name)]);
  seen.push(['digest of an unknown hash', await crypto.subtle.digest('MD5', data).catch((error) => error.name)]);
  const random = crypto.getRandomValues(new Uint8Array(16));
  seen.push(['getRandomValues', [random.length, random.some((byte) => byte > 0)]]);
  seen.push(['randomUUID', /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(crypto.randomUUID())]);
  try {
    crypto.getRandomValues(new Uint8Array(65537));
  } catch (error) {
    seen.push(['too much randomness', error.name]);
  }
  const order = [];
  await new Promise((keep) => {
    setTimeout(() => order.push('never'), 1).toString;
    const cleared = setTimeout(() => order.push('cleared'), 2);
    clearTimeout(cleared);
    setTimeout((a, b) => keep(order.push(a + b)), 20, 'a', 'b');
    queueMicrotask(() => order.push('micro'));
    order.push('sync');
  });
  seen.push(['timers', order]);
  return seen;
};
export { later };
