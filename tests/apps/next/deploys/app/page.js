// Rendered at build time: two builds of this code differ only in this text.
export const dynamic = 'force-static';

export default function Page() {
  return <p>{`as of build ${process.env.TEXT}`}</p>;
}
