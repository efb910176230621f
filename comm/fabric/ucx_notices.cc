#include "comm/fabric/ucx_notices.h"

#include <algorithm>

#include "comm/fabric/ucx_tag.h"

namespace conclave {

void UcxNotices::OnSent(void* request, ucs_status_t status, void* notices) {
  ucp_request_free(request);
  static_cast<UcxNotices*>(notices)->under_way_ -= 1;
}

void UcxNotices::Send(ucp_ep_h endpoint, const Notice& notice) {
  Wire& wire = sent_.emplace_back();
  wire.kind = static_cast<uint32_t>(notice.kind);
  wire.gone = notice.gone ? 1 : 0;
  wire.exchange = notice.exchange;
  wire.count = static_cast<uint32_t>(std::min<size_t>(notice.ranks.size(), kRanksMax));
  std::copy_n(notice.ranks.begin(), wire.count, wire.ranks);
  ucp_request_param_t param = {};
  param.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMORY_TYPE;
  param.cb.send = OnSent;
  param.user_data = this;
  param.memory_type = UCS_MEMORY_TYPE_HOST;
  ++under_way_;
  const void* request =
      ucp_tag_send_nbx(endpoint, &wire, sizeof(wire), NoticeTag(tag_epoch_, rank_), &param);
  if (!UCS_PTR_IS_PTR(request)) --under_way_;
}

std::optional<Notice> UcxNotices::Next() {
  while (true) {
    ucp_tag_recv_info_t info = {};
    const ucp_tag_message_h message =
        ucp_tag_probe_nb(worker_, NoticeTag(tag_epoch_, 0), kAnySenderMask, 1, &info);
    if (message == nullptr) return std::nullopt;
    incoming_ = {};
    ucp_request_param_t param = {};
    param.op_attr_mask = UCP_OP_ATTR_FIELD_MEMORY_TYPE;
    param.memory_type = UCS_MEMORY_TYPE_HOST;
    void* request = ucp_tag_msg_recv_nbx(worker_, &incoming_, sizeof(Wire), message, &param);
    ucs_status_t status = UCS_PTR_STATUS(request);
    if (UCS_PTR_IS_PTR(request)) {
      // A notice is short: UCX has it whole, and completes at once. Any other is no notice.
      status = ucp_request_check_status(request);
      ucp_request_free(request);
    }
    const Wire& wire = incoming_;
    if (status != UCS_OK || info.length != sizeof(Wire) || wire.count > kRanksMax ||
        wire.kind < static_cast<uint32_t>(NoticeKind::kAsk) ||
        wire.kind > static_cast<uint32_t>(NoticeKind::kGaveUp)) {
      continue;
    }
    Notice notice;
    notice.kind = static_cast<NoticeKind>(wire.kind);
    notice.gone = wire.gone != 0;
    notice.exchange = wire.exchange;
    notice.from = SenderOf(info.sender_tag);
    notice.ranks.assign(wire.ranks, wire.ranks + wire.count);
    return notice;
  }
}

}  // namespace conclave
