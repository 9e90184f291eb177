import { redirect } from 'next/navigation';

/** A 307 that says so too; to the router it is a 200 with a `location`. */
export default function Moved() {
  redirect('/isr');
}
