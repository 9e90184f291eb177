import { notFound } from 'next/navigation';

/** A 404 with a freshness lifetime. */
export default function Gone() {
  notFound();
}
