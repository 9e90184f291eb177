import { cacheLife, cacheTag } from 'next/cache';
import { notFound } from 'next/navigation';

export async function generateStaticParams() {
  return [{ id: '1' }, { id: '2' }];
}

async function Item({ id }) {
  'use cache';
  cacheLife('hours');
  cacheTag(`item-${id}`);
  // There is no data while the app is built.
  const value = process.env.DATA_URL ? await (await fetch(`${process.env.DATA_URL}/item`)).text() : 'none';
  if (value === 'broken') throw new Error('the data is broken');
  return <p>{`value:${value}:end`}</p>;
}

// Everything depends on the parameter, outside of any `Suspense`: only the build can make its shell.
export default async function Page({ params }) {
  const { id } = await params;
  if (id === 'none') notFound();
  return <Item id={id} />;
}
