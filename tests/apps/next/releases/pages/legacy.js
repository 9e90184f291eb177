import Head from 'next/head';
import Link from 'next/link';

/** Data of the page, which the router asks for in `/_next/data/`. */
export async function getServerSideProps({ query }) {
  return { props: { build: process.env.NEXT_PUBLIC_TEXT, step: Number(query.step ?? 0) } };
}

/** A page of the Pages Router: its text has the build of its data, and that of its code. */
export default function Legacy({ build, step }) {
  return (
    <main>
      <Head>
        <link rel="icon" href="data:," />
      </Head>
      <p id="legacy">{`step ${step} of ${build} in ${process.env.NEXT_PUBLIC_TEXT}`}</p>
      <Link id="on" href={`/legacy?step=${step + 1}`} prefetch={false}>
        On
      </Link>
    </main>
  );
}
