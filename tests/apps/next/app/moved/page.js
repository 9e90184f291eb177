import { redirect } from 'next/navigation';

/** A 307 with a freshness lifetime; the router gets a 200 with a `location`. */
export default function Moved() {
  redirect('/isr');
}
