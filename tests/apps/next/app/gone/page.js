import { notFound } from 'next/navigation';

/** A 404 that says for how long it holds. */
export default function Gone() {
  notFound();
}
