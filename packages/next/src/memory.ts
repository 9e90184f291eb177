// The layer in the process: entries by key, least recently used first, bounded in bytes.

/** Bytes that an entry takes beside its value and its key: the objects around it, estimated. */
const OVERHEAD = 512;

interface Slot<V> {
  value: V;
  bytes: number;
}

export class Memory<V> {
  readonly #slots = new Map<string, Slot<V>>();
  readonly #limit: number;
  #bytes = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get(key: string): V | undefined {
    const slot = this.#slots.get(key);
    if (!slot) return undefined;
    this.#slots.delete(key);
    this.#slots.set(key, slot);
    return slot.value;
  }

  /** Keeps a value of this many bytes; one beyond the limit is not kept, nor is what it replaces. */
  set(key: string, value: V, bytes: number): void {
    this.delete(key);
    const total = bytes + 2 * key.length + OVERHEAD;
    if (total > this.#limit) return;
    this.#slots.set(key, { value, bytes: total });
    this.#bytes += total;
    for (const oldest of this.#slots.keys()) {
      if (this.#bytes <= this.#limit) break;
      this.delete(oldest);
    }
  }

  delete(key: string): void {
    const slot = this.#slots.get(key);
    if (!slot) return;
    this.#bytes -= slot.bytes;
    this.#slots.delete(key);
  }

  clear(): void {
    this.#slots.clear();
    this.#bytes = 0;
  }
}
