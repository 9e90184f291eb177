import Link from 'next/link';
import { connection } from 'next/server';

import { order } from './actions.js';
import { Client } from './client.js';

export default async function Page() {
  await connection();
  return (
    <main>
      <p id="build">{`page of ${process.env.NEXT_PUBLIC_TEXT}`}</p>
      <Link id="shop" href="/shop" prefetch={false}>
        Shop
      </Link>
      <form id="order" action={order}>
        <input name="name" defaultValue="Ada" />
        <button id="send">Order</button>
      </form>
      <Client />
    </main>
  );
}
