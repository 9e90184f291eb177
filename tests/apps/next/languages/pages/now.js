export const getServerSideProps = ({ locale }) => ({ props: { locale } });

export default function Page({ locale }) {
  return <p>{`now:${locale}`}</p>;
}
