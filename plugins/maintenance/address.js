// Networks such as `10.0.0.0/8` and `fd00::/8`, and the check for addresses in them.

const v4 = (text) => {
  const parts = text.split('.');
  if (parts.length !== 4 || !parts.every((part) => /^\d{1,3}$/.test(part) && Number(part) < 256)) return undefined;
  return parts.map(Number);
};

// Returns the 16 bytes of an address; IPv4 is mapped to IPv6 (RFC 4291, 2.5.5.2).
export const bytes = (text) => {
  const ipv4 = v4(text);
  if (ipv4) return [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, ...ipv4];
  let address = text;
  const tail = /^(.*:)(\d+\.\d+\.\d+\.\d+)$/.exec(text);
  if (tail) {
    const last = v4(tail[2]);
    if (!last) return undefined;
    const hex = (at) => ((last[at] << 8) | last[at + 1]).toString(16);
    address = `${tail[1]}${hex(0)}:${hex(2)}`;
  }
  const halves = address.split('::');
  if (halves.length > 2) return undefined;
  const [head, rest] = halves.map((half) => (half === '' ? [] : half.split(':')));
  const missing = 8 - head.length - (rest?.length ?? 0);
  if (rest === undefined ? missing !== 0 : missing < 1) return undefined;
  const groups = rest === undefined ? head : [...head, ...Array(missing).fill('0'), ...rest];
  if (!groups.every((group) => /^[0-9a-f]{1,4}$/i.test(group))) return undefined;
  return groups.flatMap((group) => [Number.parseInt(group, 16) >> 8, Number.parseInt(group, 16) & 255]);
};

const network = (text) => {
  const [address, length, ...more] = String(text).split('/');
  const start = bytes(address);
  const whole = v4(address) ? 32 : 128;
  const bits = length === undefined ? whole : /^\d{1,3}$/.test(length) ? Number(length) : Number.NaN;
  if (start === undefined || more.length > 0 || !(bits <= whole)) {
    throw new Error(`invalid network \`${text}\`: use an address or a network such as 10.0.0.0/8 or fd00::/8`);
  }
  return { start, bits: bits + (128 - whole) };
};

const has = ({ start, bits }, address) =>
  start.every((byte, at) => {
    const counts = Math.min(Math.max(bits - at * 8, 0), 8);
    const mask = (0xff << (8 - counts)) & 0xff;
    return (byte & mask) === (address[at] & mask);
  });

// Returns a function that checks if an address is in one of the networks.
export const networks = (list) => {
  const all = list.map(network);
  return (text) => {
    const address = bytes(text);
    return address !== undefined && all.some((each) => has(each, address));
  };
};
