import { connection } from 'next/server';
import { Suspense } from 'react';

async function Late({ after, children }) {
  await new Promise((resolve) => setTimeout(resolve, after));
  return <p>{children}</p>;
}

/** Sends the shell at once, one piece after half a second and one after a second and a half. */
export default async function Stream() {
  await connection();
  return (
    <main>
      <h1>shell-piece</h1>
      <Suspense fallback={<p>first waits</p>}>
        <Late after={500}>{['first', 'piece'].join('-')}</Late>
      </Suspense>
      <Suspense fallback={<p>second waits</p>}>
        <Late after={1500}>{['second', 'piece'].join('-')}</Late>
      </Suspense>
    </main>
  );
}
