import state from '../../../lib/instance.js';

export const revalidate = 60;

/** No page is rendered at build time, only on the first request. */
export function generateStaticParams() {
  return [];
}

export default async function Post({ params }) {
  const { slug } = await params;
  state.renders += 1;
  return (
    <main>
      <h1>{`post:${slug}`}</h1>
      <p id="made">{`made:${Date.now()}`}</p>
    </main>
  );
}
