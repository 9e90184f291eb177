import { connection } from 'next/server';

export default async function Shop({ searchParams }) {
  await connection();
  const { ordered } = await searchParams;
  return (
    <main>
      <p id="shop-build">{`shop of ${process.env.NEXT_PUBLIC_TEXT}`}</p>
      <p id="ordered">{ordered ?? 'nothing'}</p>
    </main>
  );
}
