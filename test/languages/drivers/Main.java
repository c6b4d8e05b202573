import com.google.protobuf.ByteString;
import com.google.rpc.Status;
import com.keyward.v1.AuditServiceGrpc;
import com.keyward.v1.BatchEncryptRequest;
import com.keyward.v1.DecryptRequest;
import com.keyward.v1.EncryptRequest;
import com.keyward.v1.EncryptionServiceGrpc;
import com.keyward.v1.ListEntriesRequest;
import com.keyward.v1.ReadEntriesRequest;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.io.File;

/** Runs what docs/other-languages.md has for Java, and prints a line for each thing that came of it. */
final class Main {
  public static void main(String[] args) throws Exception {
    var channel = Keyward.connect(args[0], new File(args[1]), new File(args[2]), new File(args[3]));
    var opened = Keyward.roundTrip(channel, ByteString.copyFromUtf8("hello"));
    System.out.println("opened " + opened.toStringUtf8());

    var encryption = EncryptionServiceGrpc.newBlockingStub(channel);
    try {
      encryption.decrypt(DecryptRequest.newBuilder()
          .setParent("tenants/acme").setCiphertext(ByteString.copyFromUtf8("none")).build());
    } catch (StatusRuntimeException error) {
      report("failure", StatusProto.fromThrowable(error));
    }

    var item = EncryptRequest.newBuilder().setPlaintext(ByteString.copyFromUtf8("hello"));
    var batch = encryption.batchEncrypt(BatchEncryptRequest.newBuilder()
        .setParent("tenants/acme")
        .addRequests(item.setName("tenants/acme/keys/orders").build())
        .addRequests(item.setName("tenants/acme/keys/none").build())
        .build());
    for (var result : batch.getResultsList()) {
      if (result.hasError()) report("item", result.getError());
      else System.out.println("item " + !result.getResponse().getCiphertext().isEmpty());
    }

    var audit = AuditServiceGrpc.newBlockingStub(channel);
    var page = audit.listEntries(
        ListEntriesRequest.newBuilder().setParent("tenants/acme").setPageSize(1000).build());
    System.out.println("page " + page.getEntriesList().stream().mapToInt(one -> one.getLeaf().size()).sum());

    try {
      var entries = audit.readEntries(ReadEntriesRequest.newBuilder().setParent("tenants/acme").build());
      entries.next();
      System.out.println("reading");
      while (entries.hasNext()) entries.next();
    } catch (StatusRuntimeException error) {
      report("ended", StatusProto.fromThrowable(error));
    }
    channel.shutdownNow();
  }

  private static void report(String what, Status failure) throws Exception {
    var explained = Keyward.explain(failure);
    var info = explained.info();
    System.out.printf("%s %d %s %s %b%n", what, failure.getCode(),
        info == null ? "" : info.getReason(), info == null ? "" : info.getDomain(), explained.again());
  }
}
